"""How long a run takes from its start to its published result, part by part.

Beside the training steps a run loads the base, evaluates, answers prompts, saves and checks what it
saved. Constants that have no source are assumptions with a wide interval; on this machine's CPU they
are measured instead (:mod:`packtrain.plan.probe`).
"""

from __future__ import annotations

from dataclasses import dataclass

from packtrain.config import EvaluateConfig, RunConfig
from packtrain.plan.data import DataStats
from packtrain.plan.interval import Interval
from packtrain.plan.machines import Machine
from packtrain.plan.memory import StepProfile
from packtrain.plan.setup import Setup
from packtrain.plan.throughput import LAUNCH, StepTime, standing_weights

#: Bytes a second at which a base comes from the hub or a bucket onto a node, and from its disk to a GPU.
#: Assumptions.
DOWNLOAD, READ = Interval(0.1e9, 0.4e9, 1.5e9), Interval(0.5e9, 1.5e9, 4e9)
#: Seconds for the container's programs to be ready: imports, ranks, the data. An assumption.
BEGINNING = Interval(20.0, 45.0, 120.0)
#: Seconds for reading and tokenising a row. An assumption.
ROW = Interval(0.3e-3, 1e-3, 3e-3)
#: Seconds for the checks of a saved adapter. An assumption.
CHECKING = Interval(5.0, 20.0, 60.0)
#: Tokens of an answer over `evaluate.max_new_tokens`.
ANSWERED = Interval(0.1, 0.5, 1.0)


PARTS = ("startup", "training", "evaluation", "answers", "saving")


@dataclass(frozen=True)
class Duration:
    """Seconds of a run, by part."""

    startup: Interval
    training: Interval
    evaluation: Interval
    answers: Interval
    saving: Interval
    steps: int

    @property
    def a_step(self) -> float:
        """Expected seconds of an optimizer step."""
        return self.training.expected / self.steps

    @property
    def seconds(self) -> Interval:
        return Interval.sum(self.parts.values())

    @property
    def parts(self) -> dict[str, Interval]:
        return {name: getattr(self, name) for name in PARTS}


def duration(
    config: RunConfig, setup: Setup, profile: StepProfile, machine: Machine, data: DataStats, step: StepTime
) -> Duration:
    """Of a run on GPUs. ``step``: of its average step."""
    weights = standing_weights(setup)
    moved = _over(weights, DOWNLOAD) + _over(weights, READ)
    saving = CHECKING
    if config.full:  # written, read again for the comparison, and sent to the bucket
        saving = saving + _over(2 * weights, READ) + _over(weights, DOWNLOAD)
    return Duration(
        startup=BEGINNING + moved + ROW * data.read_first,
        training=(step.seconds * data.steps).widened(data.error),
        evaluation=_evaluation(config, setup, profile, machine, data),
        answers=_answers(config, setup, machine, weights),
        saving=saving,
        steps=data.steps,
    )


def evaluations(evaluate: EvaluateConfig, steps: int) -> int:
    """How often the validation loss is computed: before the first step, at its turns, at the end."""
    every = evaluate.every if isinstance(evaluate.every, int) else max(1, round(evaluate.every * steps))
    return 1 + steps // every + (steps % every > 0)


def forward_share(setup: Setup) -> float:
    """Of a traced step's operations, those of one forward pass."""
    backward = 2 if setup.adapter.kind == "none" else 1
    return 1 / (1 + backward + bool(setup.checkpointing))


def _evaluation(
    config: RunConfig, setup: Setup, profile: StepProfile, machine: Machine, data: DataStats
) -> Interval:
    if not data.validation_tokens:
        return Interval.exactly(0.0)
    a_token = profile.flops / setup.tokens * forward_share(setup)
    work = a_token * data.validation_tokens / setup.gpus
    turns = max(1.0, data.validation_tokens / (setup.tokens * setup.gpus))
    reached = machine.efficiency * machine.bf16_flops
    by_launch = LAUNCH * (setup.layers * turns / 3)
    once = Interval(
        max(work / reached.high, by_launch.low),
        max(work / reached.expected, by_launch.expected),
        max(work / reached.low, by_launch.high),
    )
    return once * evaluations(config.evaluate, data.steps)


def _answers(config: RunConfig, setup: Setup, machine: Machine, weights: int) -> Interval:
    """The base's and the result's; one rank, a token at a time, each reads all weights."""
    a_token = LAUNCH * (setup.layers / 3) + Interval.exactly(weights / machine.gpu_bandwidth)
    count = 2 * len(config.evaluate.prompts) * config.evaluate.max_new_tokens
    return a_token * ANSWERED * count


def _over(size: float, rate: Interval) -> Interval:
    return Interval(size / rate.high, size / rate.expected, size / rate.low)
