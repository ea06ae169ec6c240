"""Some seconds of the real run on this machine, timed: what its steps, evaluations and answers take here.

The run's own model, batches and optimizer are used, with the base's shapes and random weights: numbers
take as long to multiply whatever they are. Nothing is kept.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from packtrain.config import RunConfig
from packtrain.data.batches import BatchPlan
from packtrain.data.prepare import bins_of
from packtrain.plan.data import DataStats
from packtrain.plan.duration import ANSWERED, ROW, Duration, evaluations
from packtrain.plan.interval import Interval
from packtrain.plan.setup import Setup
from packtrain.plan.throughput import StepTime, standing_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from packtrain.model.weights import BaseFiles
    from packtrain.train.loop import Trainer

#: Seconds for micro-batches, for evaluation and for answers.
TRAINING, EVALUATION, ANSWERS = 12.0, 3.0, 3.0
#: How far what is measured in some seconds is off for minutes: a laptop grows warm, others work beside it.
ERROR = 0.12
#: Bytes a second at which weights are read and checked here; seconds of what else comes before the first
#: step, beside the imports, which are timed. Assumptions.
READ, BEGINNING = Interval(0.1e9, 0.4e9, 2e9), Interval(0.3, 0.8, 4.0)
#: What a run's process imports, as it does.
IMPORTS = "from packtrain.run.heavy import heavy_imports\nwith heavy_imports(): import packtrain.run.training"
#: Writing an adapter, loading it with peft and comparing. An assumption.
CHECKING = Interval(1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Timed:
    """Seconds on this machine."""

    a_token: float
    """Of a micro-batch, forward and backward."""
    update: float
    """Of the optimizer's step, with clipping."""
    evaluated_token: float
    answered_token: float
    imports: float
    """Of a new process, before it can do anything."""


def probe(config: RunConfig, base: BaseFiles, setup: Setup, data: DataStats) -> tuple[StepTime, Duration]:
    """The times of a run in one process here. Takes about 20 seconds, and the memory of the run."""
    return times(config, setup, data, measure(config, base, setup, data), weights=standing_weights(setup))


def hindrance(config: RunConfig) -> str | None:
    """Why no step can be tried here, if so."""
    if config.adapter.kind == "qlora" and find_spec("bitsandbytes") is None:
        return "a step in 4 bits needs bitsandbytes (pip install 'packtrain[qlora]'), so none was tried"
    return None


def times(
    config: RunConfig, setup: Setup, data: DataStats, timed: Timed, *, weights: int
) -> tuple[StepTime, Duration]:
    """What was timed, for a whole run. ``weights``: bytes of the base."""
    step = StepTime(
        computing=Interval.exactly(timed.a_token * data.tokens_a_step / setup.gpus).widened(ERROR),
        waiting=Interval.exactly(0.0),
        updating=Interval.exactly(timed.update).widened(ERROR),
    )
    once = timed.evaluated_token * data.validation_tokens
    asked = 2 * len(config.evaluate.prompts) * config.evaluate.max_new_tokens
    reading = Interval(weights / READ.high, weights / READ.expected, weights / READ.low)
    count = evaluations(config.evaluate, data.steps) if data.validation_tokens else 0
    return step, Duration(
        startup=Interval(0.8 * timed.imports, timed.imports, 2 * timed.imports)
        + BEGINNING
        + reading
        + ROW * data.read_first,
        training=(step.seconds * data.steps).widened(data.error),
        evaluation=Interval.exactly(once * count).widened(ERROR),
        answers=ANSWERED * (asked * timed.answered_token),
        saving=CHECKING + (reading * 2 if config.full else Interval.exactly(0.0)),
        steps=data.steps,
    )


def measure(config: RunConfig, base: BaseFiles, setup: Setup, data: DataStats) -> Timed:
    """Errors: :class:`ConfigError` for a base that cannot be trained."""
    trainer, model = _trainer(config, base, setup, data)
    update = _update(trainer)
    return Timed(
        a_token=_training(trainer, update),
        update=update,
        evaluated_token=_evaluation(trainer),
        answered_token=_answers(model) if config.evaluate.prompts else 0.0,
        imports=importing(),
    )


def importing() -> float:
    """Seconds until a new Python has imported what a run needs."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], stdin=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def _trainer(
    config: RunConfig, base: BaseFiles, setup: Setup, data: DataStats
) -> tuple[Trainer, PreTrainedModel]:
    """As :func:`packtrain.run.fit.set_up` makes it, with random weights and the sample of the rows."""
    import torch
    from transformers import AutoModelForCausalLM

    from packtrain.model.adapter import add_adapter, checkpoint_activations
    from packtrain.model.full import train_all
    from packtrain.model.loss import CausalLoss
    from packtrain.model.parallel import CPU, World
    from packtrain.model.quiet import quiet_transformers
    from packtrain.model.weights import checked_config
    from packtrain.train.loop import Trainer
    from packtrain.train.optimizer import make_optimizer

    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    compute = getattr(torch, setup.dtype)
    with quiet_transformers():
        model = AutoModelForCausalLM.from_config(
            checked_config(base, config.model),
            dtype=torch.float32 if config.full else compute,
            trust_remote_code=config.model.trust_remote_code,
        )
    if config.adapter.kind == "qlora":
        from packtrain.model import nf4

        nf4.pack(model)
    trained = train_all(model, 0) if config.full else add_adapter(model, config.adapter, 0)
    if setup.checkpointing:
        checkpoint_activations(model)
    loss = CausalLoss.of(model)
    loss.compute = compute if config.full and compute != torch.float32 else None
    rows = data.sample
    bins = bins_of(rows, config.data)
    plan = BatchPlan(
        bin_tokens=np.array([rows.lengths[each].sum() for each in bins]),
        batch_tokens=config.train.batch_tokens,
        epochs=1e4,
        seed=config.train.seed,
    )
    trainer = Trainer(
        loss=loss,
        adapter=trained,
        optimizer=make_optimizer(trained.parameters(), config.train),
        rows=rows,
        bins=bins,
        plan=plan,
        config=config.train,
        micro_batch=setup.micro_batch,
        device=CPU,
        world=World(),
    )
    return trainer, model


def _update(trainer: Trainer) -> float:
    """Seconds of clipping and the optimizer's step: the lesser of two, since the first makes its state."""
    import torch

    seconds = []
    for _ in range(2):
        for parameter in trainer.adapter.parameters():
            parameter.grad = torch.zeros_like(parameter)
        started = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(trainer.adapter.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _training(trainer: Trainer, update: float) -> float:
    """Seconds of a token; the first micro-batch, which warms up, is not counted."""
    from packtrain.errors import DivergedError
    from packtrain.train.loop import StopBetweenSteps

    began = time.perf_counter()
    done: list[tuple[float, int]] = []
    marks: list[float] = []

    def should_stop() -> bool:
        marks.append(time.perf_counter())
        return marks[-1] - began > TRAINING and len(done) + len(marks) > 2

    step = 0
    while time.perf_counter() - began < TRAINING or len(done) < 2:
        step += 1
        marks.clear()
        with suppress(StopBetweenSteps, DivergedError):
            trainer.step(step, should_stop)
            marks.append(time.perf_counter() - update)
        sizes = [len(batch.input_ids) for batch in trainer.micro_batches(step)[0]]
        taken = np.diff(marks).tolist()
        done += list(zip(taken, sizes[: len(taken)], strict=True))
    counted = done[1:]
    return max(1e-9, sum(seconds for seconds, _ in counted)) / sum(tokens for _, tokens in counted)


class _Enough(Exception):
    """The time for this part is over."""


def _evaluation(trainer: Trainer) -> float:
    """Seconds of a token."""
    from packtrain.evaluate.loss import evaluate_loss

    assert isinstance(trainer.bins, list), "a sample is packed once"
    began, turns = time.perf_counter(), [(0, 0.0)]

    def on_batch(done: int, _total: int) -> None:
        turns.append((done, time.perf_counter() - began))
        if turns[-1][1] > EVALUATION:
            raise _Enough

    with suppress(_Enough):
        evaluate_loss(
            trainer.loss,
            trainer.rows,
            trainer.bins,
            micro_batch=trainer.micro_batch,
            device=trainer.device,
            world=trainer.world,
            on_batch=on_batch,
        )
    done, seconds = turns[-1]
    return seconds / sum(int(trainer.rows.lengths[trainer.bins[each]].sum()) for each in range(done))


def _answers(model: PreTrainedModel) -> float:
    """Seconds of a token after a prompt of usual length."""
    from packtrain.evaluate.generate import stream
    from packtrain.model.attention import plain_attention

    began, count = time.perf_counter(), 0
    model.eval()
    with plain_attention(model):
        for _ in stream(model, [0] * 32, stop=frozenset(), max_new_tokens=32):
            count += 1
            if time.perf_counter() - began > ANSWERS:
                break
    return (time.perf_counter() - began) / max(1, count)
