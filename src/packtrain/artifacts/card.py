"""The model card: what a stranger has to know of an adapter or a model, and code that loads it.

The YAML on top is what the Hugging Face hub reads
(https://huggingface.co/docs/hub/model-cards). A base that is no hub id is not named there, since
the hub refuses it; the text names it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BITS = """\
bits = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
)
"""
NAMES = {"lora": "LoRA", "dora": "DoRA", "qlora": "QLoRA"}
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class CardFacts:
    """What the card states. Losses are validation losses in nats a supervised token."""

    name: str
    run_id: str
    base_source: str
    """As the run file names it."""
    base_identity: str
    """As ``from_pretrained`` takes it: a hub id or a folder."""
    base_revision: str | None
    data: Sequence[str]
    """A line for each source, with its revision or checksum."""
    data_fingerprint: str
    """SHA-256 over the tokens and their masks."""
    settings: Mapping[str, Any]
    """Dotted keys of the run file and their values."""
    base_loss: float | None = None
    loss: float | None = None
    train_loss: float | None = None
    answers: tuple[int, int, int] | None = None
    """Prompts with an expected answer: right before, right after, all."""
    datasets: Sequence[str] = ()
    """Ids of the hub's data sets among the sources."""
    license: str | None = None
    """The base's, where it is known."""
    chat: bool = True
    """Whether the tokenizer has a chat template."""
    versions: Mapping[str, str] = field(default_factory=dict)
    full: bool = False
    """A whole model, every weight of which was trained, rather than an adapter."""


def base_license(base_folder: Path) -> str | None:
    """The license that the base's own model card states, None where it has none or says nothing."""
    try:
        text = (base_folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    front = re.match(r"---\s*\n(.*?)\n---\s*\n", text, re.DOTALL)
    stated = re.search(r"^license:\s*[\"']?([\w.-]+)", front[1], re.MULTILINE) if front else None
    return stated[1] if stated else None


def render(card: CardFacts) -> str:
    """The whole ``README.md``."""
    sections = [_front(card), _intro(card), _results(card), _loading(card), _data(card), _settings(card)]
    return "\n\n".join(section for section in sections if section) + "\n"


def merged_card(name: str, base: str, revision: str | None, adapter: str, error: str) -> str:
    """``README.md`` of a base with an adapter merged into it. ``error``: what the comparison found."""
    on_hub = HUB_ID.fullmatch(base) is not None
    front = ["---", *([f"base_model: {base}"] if on_hub else []), "library_name: transformers"]
    front += ["pipeline_tag: text-generation", "tags:", "- packtrain", "---"]
    at = f" at revision `{revision}`" if revision else ""
    return (
        "\n".join(front)
        + f"\n\n# {name}\n\n`{base}`{at}, with the adapter {adapter} merged into its weights by packtrain."
        + f"\n\n{error}\n"
    )


def _front(card: CardFacts) -> str:
    on_hub = HUB_ID.fullmatch(card.base_identity) is not None
    relation = "finetune" if card.full else "adapter"
    tags = ["packtrain"] if card.full else ["lora", "packtrain"]
    tags += [f"base_model:{relation}:{card.base_identity}"] if on_hub else []
    lines = ["---"]
    if on_hub:
        lines.append(f"base_model: {card.base_identity}")
    library = "transformers" if card.full else "peft"
    lines += [f"library_name: {library}", "pipeline_tag: text-generation"]
    if card.license:
        lines.append(f"license: {card.license}")
    lines += ["tags:", *(f"- {tag}" for tag in tags)]
    if card.datasets:
        lines += ["datasets:", *(f"- {name}" for name in card.datasets)]
    return "\n".join([*lines, "---"])


def _intro(card: CardFacts) -> str:
    revision = f" at revision `{card.base_revision}`" if card.base_revision else ""
    base, run = f"`{card.base_source}`{revision}", f"with packtrain (run `{card.run_id}`)."
    if card.full:
        return f"# {card.name}\n\n{base}, every weight of which was fine-tuned {run}"
    name = NAMES.get(str(card.settings.get("adapter.kind")), "LoRA")
    text = f"# {card.name}\n\nA {name} adapter for {base}, trained {run}"
    return text + (" The base stood in 4 bits, as it does in the code below." if name == "QLoRA" else "")


def _results(card: CardFacts) -> str:
    rows = []
    if card.loss is not None:
        before = card.base_loss
        rows = [
            ("validation loss (nats a token)", _number(before), _number(card.loss)),
            ("validation perplexity", _number(_perplexity(before)), _number(_perplexity(card.loss))),
        ]
    if card.answers is not None:
        before_right, after_right, asked = card.answers
        rows.append(
            ("prompts answered as expected", f"{before_right} of {asked}", f"{after_right} of {asked}")
        )
    lines = [f"| | base | {'fine-tuned' if card.full else 'adapter'} |", "| --- | --- | --- |"]
    lines += [f"| {what} | {before} | {after} |" for what, before, after in rows]
    text = "\n".join(lines) if rows else "It was not evaluated."
    if card.train_loss is not None:
        text += f"\n\nTraining loss, mean over the run: {card.train_loss:.4f}."
    return f"## Results\n\n{text}"


def _perplexity(loss: float | None) -> float | None:
    """Infinite where a double cannot hold it."""
    if loss is None:
        return None
    return math.exp(loss) if loss < 700 else math.inf


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _loading(card: CardFacts) -> str:
    pinned = card.base_revision if HUB_ID.fullmatch(card.base_identity) else None
    revision = f", revision={json.dumps(pinned)}" if pinned else ""
    if card.chat:
        # What every conversation of training began with, or had of its own.
        system = card.settings.get("data.system")
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": "Hello!"})
        prompt = (
            f"messages = {json.dumps(turns, ensure_ascii=False)}\n"
            "inputs = tokenizer.apply_chat_template(\n"
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True\n'
            ")\n"
        )
    else:
        prompt = 'inputs = tokenizer("Once upon a time", return_tensors="pt")\n'
    packed = ""
    if card.full:
        imports = "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        loading = (
            'folder = "."  # this one\n'
            "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
            "model = AutoModelForCausalLM.from_pretrained(folder)\n\n"
        )
    else:
        imports = (
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        )
        if card.settings.get("adapter.kind") == "qlora":
            imports = imports.replace("AutoTokenizer", "AutoTokenizer, BitsAndBytesConfig")
            packed = ", quantization_config=bits"
        loading = (
            'adapter = "."  # this folder\n'
            "tokenizer = AutoTokenizer.from_pretrained(adapter)\n"
            f"{BITS if packed else ''}"
            "base = AutoModelForCausalLM.from_pretrained("
            f"{json.dumps(card.base_identity)}{revision}{packed})\n"
            "model = PeftModel.from_pretrained(base, adapter)\n\n"
        )
    code = (
        f"{imports}{loading}{prompt}"
        "output = model.generate(**inputs, max_new_tokens=64, do_sample=False)\n"
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))\n'
    )
    note = ""
    if card.base_source != card.base_identity and not card.full:
        note = (
            f"\n\nThe base is `{card.base_source}`, which stood in the folder that the code names. Elsewhere "
            f"name its folder there, or let packtrain get it: "
            f"`packtrain chat . --base {card.base_source}`."
        )
    return f"## How to load\n\n```python\n{code}```{note}"


def _data(card: CardFacts) -> str:
    lines = [f"- {line}" for line in card.data]
    return "\n".join(
        ["## Data", "", *lines, f"- fingerprint (SHA-256 of tokens and masks): `{card.data_fingerprint}`"]
    )


def _settings(card: CardFacts) -> str:
    lines = ["## Settings", "", "| | |", "| --- | --- |"]
    lines += [f"| {key} | {_cell(value)} |" for key, value in card.settings.items()]
    versions = ", ".join(f"{name} {version}" for name, version in card.versions.items())
    return "\n".join(lines) + (f"\n\nMade with {versions}." if versions else "")


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("|", "\\|").replace("\n", " ")
