"""The peers: transformers' Trainer and TRL's SFTTrainer on the same rows, as their users would run them.

Run by ``compare.py`` in a venv of the peers' own. Nothing of packtrain is imported.

- ``trainer-padded``: transformers Trainer + peft, every row padded to ``--max-length`` (the usual guide);
- ``trainer-dynamic``: the same, padded to the longest row of the batch;
- ``trl-default``: SFTTrainer as it comes, in fp32;
- ``trl-packed``: SFTTrainer with packing (best fit) and without activation checkpointing.

``--set KEY=JSON`` adds to the peer's own settings, ``--full`` leaves the adapter away.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from measured import Measured
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

LORA: dict[str, Any] = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}


class Watch(TrainerCallback):  # type: ignore[misc]
    """Counts and times the optimizer steps."""

    def __init__(self, measured: Measured, tokens: int, mark: Path | None) -> None:
        self.measured, self.tokens, self.mark = measured, tokens, mark
        self.trainer: Any = None
        """TRL's, which counts the tokens that it has trained on."""

    def on_step_begin(self, *_: object, **__: object) -> None:
        self.measured.begin_step()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.measured.end_step(self.tokens)
        if self.mark is not None:
            new = self.mark.with_suffix(".new")
            new.write_text(str(int(self.trainer._total_train_tokens)), encoding="utf-8")
            new.rename(self.mark)

    def on_log(self, *_: object, logs: dict[str, float] | None = None, **__: object) -> None:
        if logs and "loss" in logs:
            self.measured.losses.append(logs["loss"])


def conversations(path: Path) -> list[dict[str, list[dict[str, str]]]]:
    """Dolly rows as prompt and completion, the context below the question, as packtrain lays them out."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        {
            "prompt": [
                {
                    "role": "user",
                    "content": "\n\n".join(part for part in (row["instruction"], row["context"]) if part),
                }
            ],
            "completion": [{"role": "assistant", "content": row["response"]}],
        }
        for row in rows
    ]


def tokenized(rows: list[dict[str, Any]], tokenizer: Any, max_length: int) -> list[dict[str, list[int]]]:
    """Tokens and labels of each row; prompts have no loss."""
    made = []
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False)
        head = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        tokens = tokenizer(whole, add_special_tokens=False)["input_ids"][:max_length]
        made.append({"input_ids": tokens, "labels": ([-100] * head + tokens[head:])[:max_length]})
    return made


def common(options: argparse.Namespace, rows_a_step: int) -> dict[str, Any]:
    """Settings that all peers share; one optimizer step sees every row once."""
    return {
        "output_dir": tempfile.mkdtemp(prefix="peer-"),
        "max_steps": options.steps + 1,
        "gradient_accumulation_steps": 1 if options.first_step else max(1, rows_a_step // options.batch),
        "per_device_train_batch_size": options.batch,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "seed": 42,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    } | {key: json.loads(value) for key, _, value in (each.partition("=") for each in options.set)}


def run_trainer(options: argparse.Namespace, measured: Measured) -> None:
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = tokenized(conversations(options.rows), tokenizer, options.max_length)
    model = AutoModelForCausalLM.from_pretrained(options.base, dtype=torch.float32)
    if not options.full:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **LORA))
    padding: dict[str, Any] = (
        {"padding": "max_length", "max_length": options.max_length}
        if options.peer == "trainer-padded"
        else {"padding": True}
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**common(options, len(rows))),
        train_dataset=Dataset.from_list(rows),
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100, **padding),
        callbacks=[Watch(measured, sum(len(row["input_ids"]) for row in rows), options.first_step)],
    )
    trainer.train()


def run_trl(options: argparse.Namespace, measured: Measured) -> None:
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(options.base)
    rows = conversations(options.rows)
    tokens = 0
    if options.first_step is None:  # a start would pay for the counting
        tokens = sum(len(row["input_ids"]) for row in tokenized(rows, tokenizer, options.max_length))
    model = AutoModelForCausalLM.from_pretrained(options.base, dtype=torch.float32)
    packed = options.peer == "trl-packed"
    own: dict[str, Any] = {"max_length": options.max_length, "bf16": False}
    if packed:
        own |= {"packing": True, "gradient_checkpointing": False}
    settings = own | common(options, len(rows))
    watch = Watch(measured, tokens, options.first_step)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=None if options.full else LoraConfig(task_type="CAUSAL_LM", **LORA),
        callbacks=[watch],
    )
    watch.trainer = trainer
    if packed and options.first_step is None:
        # A step sees every packed sequence once, as a step of the others sees every row once.
        trainer.args.gradient_accumulation_steps = max(1, len(trainer.train_dataset) // options.batch)
        trainer.accelerator.gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    trainer.train()


PEERS = {
    "trainer-padded": run_trainer,
    "trainer-dynamic": run_trainer,
    "trl-default": run_trl,
    "trl-packed": run_trl,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument("--base", required=True, type=Path)
    parser.add_argument("--rows", required=True, type=Path, help="dolly rows, one JSON object a line")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=1, help="sequences in one forward pass")
    parser.add_argument("--full", action="store_true", help="full fine-tuning")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="one more setting")
    parser.add_argument("--first-step", type=Path, metavar="FILE", help="made at the end of the first step")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import peft
    import transformers
    import trl

    measured = Measured(
        options.peer,
        versions={module.__name__: str(module.__version__) for module in (torch, transformers, peft, trl)},
    )
    PEERS[options.peer](options, measured)
    measured.print()


if __name__ == "__main__":
    main()
