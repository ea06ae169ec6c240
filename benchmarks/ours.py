"""packtrain on the same rows: the step that ``packtrain train`` makes, with the run file's defaults.

Run by ``compare.py`` in packtrain's own venv.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from measured import Measured

from packtrain import __version__
from packtrain.config import RunConfig
from packtrain.data.batches import BatchPlan
from packtrain.data.prepare import prepare
from packtrain.model.parallel import World
from packtrain.model.weights import load_tokenizer, resolve_base
from packtrain.run.settings import pick_micro_batch, use_activation_checkpointing
from packtrain.run.spread import spread_model
from packtrain.train.loop import Trainer
from packtrain.train.optimizer import make_optimizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True, type=Path)
    parser.add_argument("--rows", required=True, type=Path, help="dolly rows, one JSON object a line")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--full", action="store_true", help="full fine-tuning")
    parser.add_argument(
        "-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="of the run file"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sections: dict[str, Any] = {
        "name": "benchmark",
        "model": {"source": str(options.base)},
        "data": {"train": str(options.rows), "validation": 0.0, "max_length": options.max_length},
        "adapter": {"kind": "none"} if options.full else {"rank": 16, "alpha": 32.0},
        "train": {"batch_tokens": 1_000_000, "schedule": "constant", "warmup": 0, "max_steps": 1000},
    }
    for key, _, value in (each.partition("=") for each in options.set):
        section, _, name = key.partition(".")
        sections[section][name] = yaml.safe_load(value)
    config = RunConfig.model_validate(sections)
    device = torch.device("cpu")
    world = World(device=device)
    base = resolve_base(config.model)
    tokenizer = load_tokenizer(base, config.model)
    data = prepare(config.data, tokenizer, chat_template=None, seed=config.train.seed)
    _, trainable, loss = spread_model(
        base,
        config,
        world,
        "data",
        dtype=torch.float32,
        activation_checkpointing=use_activation_checkpointing(config.train, device),
        rows=data.train,
    )
    bin_tokens = np.array([data.train.lengths[rows].sum() for rows in data.train_bins])
    plan = BatchPlan(bin_tokens, config.train.batch_tokens, epochs=10_000, seed=42)
    trainer = Trainer(
        loss=loss,
        adapter=trainable,
        optimizer=make_optimizer(trainable.parameters(), config.train),
        rows=data.train,
        bins=data.train_bins,
        plan=plan,
        config=config.train,
        micro_batch=pick_micro_batch(config.train, config.data.max_length, device),
        device=device,
        world=world,
    )
    measured = Measured("packtrain", versions={"packtrain": __version__, "torch": torch.__version__})
    for step in range(1, options.steps + 2):
        measured.begin_step()
        result = trainer.step(step, lambda: False)
        measured.end_step(result.tokens)
        measured.losses.append(result.loss)
    measured.print()


if __name__ == "__main__":
    main()
