"""How far loss and gradients of a step are from fp64: packtrain's, and plain transformers + peft in fp32.

    python benchmarks/exact.py --base FOLDER --rows dolly.jsonl.gz --count 4 --max-length 256

The reference is plain transformers + peft in fp64, one row at a time, without packing or padding. A is as
a run begins with it, B is random and not zero: with a B of zero half of the gradients are zero. Ends
with 1 where packtrain's error is more than ``--most`` times that of fp32.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from compare import random_base, write_rows
from comparison import markdown
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from setup_ours import make_trainer
from transformers import AutoModelForCausalLM

from packtrain.model.adapter import Adapter
from packtrain.train.loop import Trainer

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Result:
    loss: float
    gradients: Tensors


@dataclass(frozen=True)
class Errors:
    loss: float
    """Relative."""
    gradients: float
    """Norm of the difference over the norm, of all gradients as one vector."""
    worst: float
    """The same for the one tensor where it is largest."""

    @classmethod
    def of(cls, found: Result, exact: Result) -> Errors:
        assert found.gradients.keys() == exact.gradients.keys()
        pairs = [(found.gradients[name].double(), exact.gradients[name]) for name in exact.gradients]
        apart = [float((mine - theirs).norm()) for mine, theirs in pairs]
        sizes = [float(theirs.norm()) for _, theirs in pairs]
        return cls(
            abs(found.loss - exact.loss) / abs(exact.loss),
            float(torch.tensor(apart).norm() / torch.tensor(sizes).norm()),
            max(each / size for each, size in zip(apart, sizes, strict=True)),
        )


class _Recorder(torch.optim.Optimizer):
    """Keeps the gradients of a step, and changes nothing."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.0})
        self.seen: list[torch.Tensor] = []

    def step(self, closure: Any = None) -> None:
        self.seen = [parameter.grad.clone() for parameter in self.param_groups[0]["params"]]


def ours(trainer: Trainer, weights: Tensors) -> Result:
    trainer.adapter.load(weights)
    named = trainer.adapter.named_parameters()
    recorder = _Recorder(list(named.values()))
    trainer.optimizer = recorder
    loss = trainer.step(1, lambda: False).loss
    return Result(loss, dict(zip(named, recorder.seen, strict=True)))


def plain(base: Path, trainer: Trainer, weights: Tensors, dtype: torch.dtype) -> Result:
    """transformers + peft: each row by itself, as it would be without any packing."""
    assert isinstance(trainer.adapter, Adapter)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, attn_implementation="eager")
    model = get_peft_model(model, LoraConfig(**trainer.adapter.peft_config()), autocast_adapter_dtype=False)
    set_peft_model_state_dict(model, weights)
    model.to(dtype).train()
    rows = trainer.rows
    supervised = int(rows.targets.sum())
    loss = torch.zeros((), dtype=torch.float64)
    for index in range(len(rows)):
        tokens, mask = (torch.from_numpy(array.copy()) for array in rows.row(index))
        logits = model(input_ids=tokens.long()[None]).logits[0, :-1]
        # The model's own loss, in its own dtype: transformers' has no float64.
        part = torch.nn.functional.cross_entropy(
            logits[mask[1:]], tokens[1:][mask[1:]].long(), reduction="sum"
        )
        (part / supervised).backward()
        loss += part.detach().double()
    gradients = {
        name.replace(".default", ""): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return Result(float(loss) / supervised, gradients)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", required=True, type=Path)
    parser.add_argument("--rows", required=True, type=Path, help="dolly rows, .jsonl or .jsonl.gz")
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0, help="of B")
    parser.add_argument("--most", type=float, default=3.0, metavar="FACTOR")
    parser.add_argument("--shape", metavar="HIDDEN,LAYERS,HEADS,KV,VOCAB", help="a random Llama instead")
    parser.add_argument(
        "-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="of the run file"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        rows, base = Path(name) / "rows.jsonl", options.base.resolve()
        write_rows(options.rows, options.skip, options.count, rows)
        if options.shape:
            base = random_base(base, options.shape, Path(name) / "base")
        # Clipping would scale the gradients that are to be compared.
        overrides = [*options.set, "train.max_grad_norm=1.0e+12"]
        trainer = make_trainer(base, rows, options.max_length, overrides=overrides)
        weights = trainer.adapter.tensors()
        generator = torch.Generator().manual_seed(options.seed)
        for key, tensor in weights.items():
            if ".lora_B." in key:
                weights[key] = torch.randn(tensor.shape, generator=generator) * 0.02
        mine = ours(trainer, weights)
        single = plain(base, trainer, weights, torch.float32)
        exact = plain(base, trainer, weights, torch.float64)
    errors = {"packtrain": Errors.of(mine, exact), "transformers + peft, fp32": Errors.of(single, exact)}
    print(f"{len(trainer.rows)} rows, {int(trainer.rows.lengths.sum()):,} tokens, "
          f"{len(trainer.bins)} packed sequences; loss in fp64 {exact.loss:.6f}\n")  # fmt: skip
    body = [
        (name, f"{each.loss:.1e}", f"{each.gradients:.1e}", f"{each.worst:.1e}")
        for name, each in errors.items()
    ]
    print(markdown(("relative error against fp64", "loss", "gradients", "worst tensor"), body))
    ours_error, theirs = errors.values()
    # One rounding of the loss can be lucky: below two units in the last place nothing is compared.
    loss_bound = options.most * max(theirs.loss, 2 * torch.finfo(torch.float32).eps)
    within = ours_error.loss <= loss_bound and ours_error.gradients <= options.most * theirs.gradients
    print(f"\n{'within' if within else 'NOT within'} {options.most:g} × the error of fp32")
    sys.exit(0 if within else 1)


if __name__ == "__main__":
    main()
