"""GGUF files and Ollama folders: llama.cpp cuts text the same way and says what base and adapter say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_kit import tokenizer as family_tokenizer
from peft import PeftModel
from tiny import make_tiny_base
from trained import Trained, plain_base, trained_on
from transformers import AutoModelForCausalLM, AutoTokenizer

from packtrain.artifacts import export
from packtrain.artifacts.export import export_gguf, export_ollama
from packtrain.artifacts.gguf_file import put_back, reordered
from packtrain.artifacts.gguf_tokenizer import cutting
from packtrain.artifacts.locate import locate
from packtrain.artifacts.ollama import parts_of
from packtrain.artifacts.vllm import refusals
from packtrain.artifacts.vllm_ranks import RANKS, least_rank
from packtrain.errors import ConfigError, ConflictError, GateError, PacktrainError
from packtrain.model.gguf import convert

TEXT = "What is the capital? 서울은 12345 questions, and\n\n\tcode()."


def silent(_: str) -> None:
    return None


def base_of(folder: Path, kind: str, family: str, **settings: Any) -> Path:
    """A tiny model with a tokenizer that has merges, of a family."""
    make_tiny_base(folder, kind, vocab=512, **settings)
    for name in ("special_tokens_map.json", "tokenizer_config.json", "tokenizer.json"):
        (folder / name).unlink()
    family_tokenizer(family).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    trained_on(base_of(folder / "base", "llama", "smollm2")).write(folder / "adapter")
    return folder / "adapter"


def with_peft(adapter: Path) -> Any:
    config = json.loads((adapter / "adapter_config.json").read_text())
    return PeftModel.from_pretrained(plain_base(Path(config["base_model_name_or_path"])), str(adapter)).eval()


def worst(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(((got - wanted).square().mean(-1).sqrt() / wanted.square().mean(-1).sqrt()).max())


class LlamaCpp:
    """llama.cpp: how it cuts a text, and the token that it takes for the likeliest after each other."""

    def __init__(self, path: Path) -> None:
        library = pytest.importorskip("cyllama.llama.llama_cpp", reason="needs llama.cpp: cyllama")
        self.library = library
        self.model = library.LlamaModel(str(path), library.LlamaModelParams())
        self.context = library.LlamaContext(self.model, library.LlamaContextParams())
        self.sampler = library.LlamaSampler()
        self.sampler.add_greedy()

    def tokens(self, text: str) -> list[int]:
        return [int(token) for token in self.model.get_vocab().tokenize(text, True, True)]

    def likeliest(self, ids: list[int]) -> list[int]:
        said = []
        for end in range(1, len(ids) + 1):
            self.context.kv_cache_clear()
            assert self.context.decode(self.library.llama_batch_get_one(ids[:end])) == 0
            said.append(int(self.sampler.sample(self.context, -1)))
        return said


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        ("llama", "smollm2"),
        ("llama3", "llama32"),
        ("qwen2", "qwen25"),
        ("qwen3", "qwen3"),
        ("llama", "zephyr"),
    ],
)
def test_llama_cpp_says_the_same(tmp_path: Path, kind: str, family: str) -> None:
    base = base_of(tmp_path / "base", kind, family, tied=family == "smollm2")
    trained_on(base).write(tmp_path / "adapter")
    located = locate(str(tmp_path / "adapter"), tmp_path / "x")
    made = export_gguf(located, None, tmp_path / "model.gguf", "f16", say=silent)
    assert made.logit_error < 0.01
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    ids = tokenizer(TEXT, add_special_tokens=True)["input_ids"]
    theirs = LlamaCpp(made.path)
    assert theirs.tokens(TEXT) == ids
    turn = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    bos = tokenizer.bos_token
    expected = tokenizer(turn, add_special_tokens=False)["input_ids"]
    if bos is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]:
        turn, expected = turn.removeprefix(bos), [tokenizer.bos_token_id, *expected[turn.startswith(bos) :]]
    assert theirs.tokens(turn) == expected
    # Base and adapter answer, and llama.cpp is asked at each of its tokens.
    with torch.inference_mode():
        model = with_peft(tmp_path / "adapter")
        answer = model.generate(
            input_ids=torch.tensor([ids]), max_new_tokens=8, min_new_tokens=8, do_sample=False
        )[0].tolist()
        logits = model(input_ids=torch.tensor([answer])).logits[0]
    best = logits.topk(2)
    clear = (best.values[:, 0] - best.values[:, 1] > 0.05 * logits.std()).tolist()
    assert sum(clear) > len(answer) * 3 // 4
    said = theirs.likeliest(answer)
    ours = best.indices[:, 0].tolist()
    assert [token for token, sure in zip(said, clear, strict=True) if sure] == [
        token for token, sure in zip(ours, clear, strict=True) if sure
    ]


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_our_own_reader_opens_it(tmp_path: Path, adapter: Path, kind: Any) -> None:
    made = export_gguf(locate(str(adapter), tmp_path / "x"), None, tmp_path / "model.gguf", kind, say=silent)
    folder = convert(made.path, tmp_path / "back")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = AutoTokenizer.from_pretrained(adapter)(TEXT)["input_ids"]
    assert tokenizer(TEXT)["input_ids"] == ids
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(adapter).chat_template
    with torch.inference_mode():
        got = model(input_ids=torch.tensor([ids])).logits[0]
        wanted = with_peft(adapter)(input_ids=torch.tensor([ids])).logits[0]
    assert worst(got, wanted) < (0.01 if kind == "f16" else 0.1)


def test_a_whole_model(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", "llama", "smollm2", dtype="bfloat16")
    made = export_gguf(locate(str(base), tmp_path / "x"), None, tmp_path / "model.gguf", "f16", say=silent)
    assert made.logit_error < 1e-3


def test_a_file_that_computes_something_else_is_not_kept(
    tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "GGUF_TOLERANCE", {"q8_0": 1e-6})
    with pytest.raises(GateError, match="computes something else than what it was made from"):
        export_gguf(locate(str(adapter), tmp_path / "x"), None, tmp_path / "a.gguf", "q8_0", say=silent)
    assert list(tmp_path.iterdir()) == []


def _change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("kind", "family", "changes", "sentence"),
    [
        ("gemma", "smollm2", {}, "gemma2 is not written to GGUF"),
        ("mistral", "smollm2", {}, "leaves out Mistral's sliding window"),
        (
            "llama",
            "smollm2",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            r"scaled in a way \(dynamic\)",
        ),
    ],
)
def test_models_that_gguf_does_not_take(
    tmp_path: Path, kind: str, family: str, changes: dict[str, Any], sentence: str
) -> None:
    base = base_of(tmp_path / "base", kind, family)
    _change(base / "config.json", **changes)
    with pytest.raises(ConfigError, match=sentence):
        export_gguf(locate(str(base), tmp_path / "x"), None, tmp_path / "a.gguf", "f16", say=silent)
    assert not (tmp_path / "a.gguf").exists()


def test_nothing_is_overwritten(tmp_path: Path, adapter: Path) -> None:
    located = locate(str(adapter), tmp_path / "x")
    (tmp_path / "a.gguf").touch()
    with pytest.raises(ConflictError, match="is there already"):
        export_gguf(located, None, tmp_path / "a.gguf", "f16", say=silent)
    with pytest.raises(ConflictError, match="is there already"):
        export_ollama(located, None, tmp_path, "f16", say=silent)


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def _split(pattern: str) -> dict[str, Any]:
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [step, BYTES | {"use_regex": False}]}


def _tokenizer(pre: Any, **changes: Any) -> dict[str, Any]:
    model = {"type": "BPE", "merges": [["a", "b"]]}
    return {"model": model, "normalizer": None, "pre_tokenizer": pre} | changes


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (_tokenizer(BYTES), "gpt-2"),
        (
            _tokenizer(
                {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]}
            ),
            "smollm",
        ),
        (_tokenizer(_split(LLAMA3)), "llama-bpe"),
        (_tokenizer(_split(LLAMA3.replace("{1,3}", "")), normalizer={"type": "NFC"}), "qwen2"),
    ],
)
def test_how_text_is_cut_has_a_name(content: dict[str, Any], name: str) -> None:
    assert cutting(content) == name


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (_tokenizer(_split(r"\d+")), "no known name"),
        (_tokenizer({"type": "Metaspace"}), "no known name"),
        (_tokenizer(None), "no known name"),
        (_tokenizer(BYTES, model={"type": "Unigram"}), "no byte-level BPE"),
        (_tokenizer(BYTES, model={"type": "BPE", "merges": []}), "no byte-level BPE"),
        (_tokenizer(BYTES, normalizer={"type": "Lowercase"}), "changes text first"),
    ],
)
def test_and_what_has_none_is_refused(content: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        cutting(content)


def test_the_order_of_rotary_pairs_and_back() -> None:
    weight = torch.randn(32, 5)
    assert torch.equal(put_back(reordered(weight, 4), 4), weight)
    # Of a head's 8 rows the first half are the cosines' and the second the sines': taken in turns.
    assert torch.equal(
        reordered(torch.arange(8.0)[:, None], 1).flatten(), torch.tensor([0, 4, 1, 5, 2, 6, 3, 7.0])
    )


@pytest.mark.parametrize(
    "family", ["smollm2", "llama3", "llama32", "mistral", "gemma", "qwen25", "qwen3", "phi3", "zephyr"]
)
def test_ollamas_template_says_what_jinja_says(family: str) -> None:
    tokenizer = family_tokenizer(family)
    parts = parts_of(tokenizer)
    if family == "mistral":  # its system prompt moves to the last turn
        assert parts is None or parts.system is None
        return
    assert parts is not None
    turns = ["What?", "That.", "Why?"]
    messages = [
        {"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    bos = tokenizer.bos_token
    adds = bos is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    assert parts.render(None, turns) == (text.removeprefix(bos) if adds else text)
    assert (parts.system is None) == (family == "gemma")


def test_a_folder_for_ollama(tmp_path: Path, adapter: Path) -> None:
    located = locate(str(adapter), tmp_path / "x")
    made, has_template = export_ollama(located, None, tmp_path / "out", "q8_0", say=silent)
    assert has_template
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Modelfile", "model.gguf"]
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert text.startswith('FROM ./model.gguf\nTEMPLATE """')
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert made.path == tmp_path / "out" / "model.gguf"


def test_without_a_template_that_go_can_say(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", "llama", "deepseek")
    _, has_template = export_ollama(
        locate(str(base), tmp_path / "x"), None, tmp_path / "o", "f16", say=silent
    )
    assert has_template is ("TEMPLATE" in (tmp_path / "o" / "Modelfile").read_text())


@pytest.mark.parametrize(
    ("changes", "rank", "reasons"),
    [
        ({}, None, []),
        ({}, 4, []),
        ({}, 2, ["rank 4 is over --max-lora-rank 2"]),
        ({"r": 513}, None, ["rank 513 is over 512"]),
        ({"use_dora": True}, None, ["use_dora"]),
        ({"modules_to_save": ["lm_head"], "bias": "all"}, None, [r"modules_to_save \(lm_head\)", "bias"]),
        ({"rank_pattern": {"q_proj": 8}}, None, ["rank_pattern"]),
        ({"peft_type": "IA3"}, None, ["peft_type is IA3"]),
    ],
)
def test_why_vllm_would_refuse(
    tmp_path: Path, trained: Trained, changes: dict[str, Any], rank: int | None, reasons: list[str]
) -> None:
    trained.write(tmp_path)
    _change(tmp_path / "adapter_config.json", **changes)
    found = refusals(tmp_path, rank)
    assert len(found) == len(reasons)
    for sentence, reason in zip(found, reasons, strict=True):
        assert re.match(reason, sentence), sentence


def test_modules_that_vllm_gives_no_update(tmp_path: Path, trained: Trained) -> None:
    strange = {name.replace("q_proj", "in_proj"): tensor for name, tensor in trained.tensors.items()}
    trained.write(tmp_path, tensors=strange)
    assert refusals(tmp_path) == ["in_proj: vLLM gives this module no update"]


def test_the_least_rank_of_a_server() -> None:
    assert [least_rank(rank) for rank in (1, 2, 16, 17, 512, 513)] == [1, 8, 16, 32, 512, None]
    assert list(RANKS) == sorted(RANKS)


def test_a_run_file_that_is_no_adapter(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("name: nothing\nmodel: {source: x}\ndata: {train: y}\n")
    with pytest.raises(PacktrainError, match="runs/nothing"):
        locate(str(tmp_path / "run.yaml"), tmp_path / "x")
