"""Who is compared: each a script's arguments, in packtrain's venv or in the peers'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Contestant:
    name: str
    what: str
    """A line for people: what a user would say that this is."""
    venv: Literal["ours", "peers"]
    script: str
    arguments: tuple[str, ...] = ()
    batch: int | None = None
    """Sequences in one forward pass, for a peer; what its users take unless ``--batch`` says otherwise."""


def _all() -> list[Contestant]:
    # LoRA of the same rank on the same layers, fp32, AdamW; one optimizer step sees every row once.
    return [
        Contestant(
            "trainer-padded", "transformers Trainer + peft, padded to the longest length", "peers",
            "peers.py", ("trainer-padded",), 8,
        ),
        Contestant(
            "trainer-dynamic", "transformers Trainer + peft, padded to the longest row of a batch", "peers",
            "peers.py", ("trainer-dynamic",), 8,
        ),
        Contestant(
            "trl-default", "TRL SFTTrainer as it comes, in fp32", "peers", "peers.py", ("trl-default",), 8
        ),
        Contestant(
            "trl-packed", "TRL SFTTrainer, packed (bfd), no activation checkpointing", "peers",
            "peers.py", ("trl-packed",), 1,
        ),
        Contestant(
            "trl-packed-compiled", "the same with torch_compile", "peers",
            "peers.py", ("trl-packed", "--set", "torch_compile=true"), 1,
        ),
        Contestant(
            "trl-packed-lean", "the same with activation checkpointing", "peers",
            "peers.py", ("trl-packed", "--set", "gradient_checkpointing=true"), 1,
        ),
        Contestant("packtrain", "packtrain, the run file's defaults", "ours", "ours.py"),
        Contestant(
            "packtrain-lean", "packtrain, train.activation_checkpointing: true", "ours",
            "ours.py", ("-s", "train.activation_checkpointing=true"),
        ),
        Contestant(
            "trl-packed-full", "TRL packed, full fine-tuning", "peers",
            "peers.py", ("trl-packed", "--full"), 1,
        ),
        Contestant("packtrain-full", "packtrain, full fine-tuning", "ours", "ours.py", ("--full",)),
    ]  # fmt: skip


CONTESTANTS = {each.name: each for each in _all()}
#: Against which each of ours is a ratio: what does the same work.
RIVALS = {
    "packtrain": ("trainer-padded", "trainer-dynamic", "trl-default", "trl-packed", "trl-packed-compiled"),
    "packtrain-lean": ("trl-packed", "trl-packed-lean"),
    "packtrain-full": ("trl-packed-full",),
}
DEFAULT = ("trainer-padded", "trainer-dynamic", "trl-default", "trl-packed", "packtrain", "packtrain-lean")
#: The README's table.
TABLE = (
    "trainer-padded", "trl-default", "trl-packed", "packtrain", "packtrain-lean", "trl-packed-full",
    "packtrain-full",
)  # fmt: skip
