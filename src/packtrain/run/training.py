"""From a run file to a checked adapter, or model, with its receipt: the stages between, in order."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

import numpy as np

from packtrain.errors import BugError
from packtrain.evaluate.answers import Answer, answers
from packtrain.model.adapter import Adapter
from packtrain.model.attention import plain_attention
from packtrain.model.folder import weights_dtype
from packtrain.model.full import FullModel
from packtrain.model.parallel import World, local
from packtrain.run import facts
from packtrain.run.finish import base_alone, save_result, whole_again
from packtrain.run.fit import Fit, set_up
from packtrain.run.planned import recall
from packtrain.run.pod import image
from packtrain.run.settings import rate_warning, serving_warning
from packtrain.run.stepping import train
from packtrain.train.progress import peak_memory

if TYPE_CHECKING:
    from packtrain.artifacts.receipt import Receipt
    from packtrain.plan.summary import Summary
    from packtrain.run.session import Session


#: Ranges from 0 to ``data.max_length`` in which the event ``data`` counts rows by their length.
LENGTH_BINS = 32


def make_adapter(session: Session) -> Receipt | None:
    """Train, evaluate, write and check an adapter or a model; its receipt, which the main rank alone gets."""
    with (session.world or World()).computing():
        return _make(session)


def _make(session: Session) -> Receipt | None:
    fit = set_up(session)
    try:
        session.emit(
            "start",
            fit.state.step,
            run_id=session.identity.run_id if session.keeping else None,
            name=fit.config.name,
            resumed_from=fit.state.step or None,
            steps=fit.schedule.steps,
            rows=None if fit.stream else len(fit.data.train),
            processes=fit.trainer.world.size,
            **fit.state.settings,
            **facts.speed_is_a_share_of(fit),
            **({"image": made_in} if (made_in := image()) else {}),
        )
        tell_data(session, fit)
        planned = tell_plan(session, fit)
        for warning in filter(
            None, (rate_warning(fit.config), serving_warning(fit.config), *fit.data.report.warnings())
        ):
            session.warn(warning, fit.state.step)
        with session.stop.deferred():
            train(session, fit)
        tell_streamed(session, fit)
        world, sharded = fit.trainer.world, fit.trainer.sharded
        # All that is left of it is in the last checkpoint: what follows needs the room.
        fit.trainer.optimizer.state.clear()
        if isinstance(fit.adapter, FullModel):
            fit.adapter.round_to(weights_dtype(fit.base.folder))
        elif isinstance(fit.adapter, Adapter):
            fit.adapter.round_saved()
        _check_ranks(fit)
        tensors = fit.adapter.tensors(keep=world.is_main) if sharded else {}
        if not world.is_main:
            return None
        if sharded:
            fit = whole_again(fit, tensors)
            del tensors
        made = _answer(session, fit)
        session.progress.close()
        if made:
            session.on_answers(made)
            session.emit("answers", fit.state.step, answers=[each.to_json() for each in made])
        receipt = save_result(session, fit, made)
        if planned is not None:
            tell_happened(session, fit)
        return receipt
    finally:
        if fit.part_writer is not None:
            fit.part_writer.close()
        if fit.store is not None:
            fit.store.close(wait_for_mirror=True, timeout=session.seconds_left())


def tell_data(session: Session, fit: Fit) -> None:
    """What the data holds, in numbers and places; the rows' lengths as counts of equal ranges."""
    most = fit.config.data.max_length
    counts = np.histogram(fit.data.train.lengths, bins=LENGTH_BINS, range=(0, most))[0]
    session.emit(
        "data", fit.state.step, **fit.data.report.to_json(), lengths=[int(count) for count in counts]
    )


def tell_streamed(session: Session, fit: Fit) -> None:
    """What the data was that was streamed, now that it is known; ``fit`` has it from now on."""
    if fit.stream is None:
        return
    told = fit.data.report.warnings()
    fit.data = fit.stream.trained(fit.state.step)
    tell_data(session, fit)
    for warning in fit.data.report.warnings():
        if warning not in told:
            session.warn(warning, fit.state.step)


def tell_plan(session: Session, fit: Fit) -> Summary | None:
    """An event of what was planned for this run, where something was."""
    planned = recall(session.run_file.config, fit.trainer.device.type)
    if planned is not None:
        session.emit("plan", fit.state.step, **planned.fields())
    return planned


def tell_happened(session: Session, fit: Fit) -> None:
    """And of what came: memory as PyTorch counts it on a GPU; this attempt's seconds, and all of training."""
    state, device = fit.state, fit.trainer.device
    happened = {
        "seconds": round(time.monotonic() - session.began, 3),
        "training_seconds": round(state.seconds, 3),
        "tokens_per_second": round(state.tokens / max(state.seconds, 1e-9), 1),
        "peak_bytes": peak_memory() if device.type == "cuda" else None,
    }
    session.emit("plan", state.step, happened=happened)


def _check_ranks(fit: Fit) -> None:
    """What is saved is what was trained on every rank: those that hold the same hold equal numbers."""
    world, digest = fit.trainer.world, hashlib.sha256()
    for parameter in fit.adapter.parameters():
        digest.update(local(parameter.detach()).cpu().numpy().tobytes())
    # Sharded over the ranks of a node, or over nodes of one rank; else each rank has all.
    shard = world.local_rank if world.local_size > 1 else world.rank
    found: dict[int, str] = {}
    for place, theirs in world.gather((shard if fit.trainer.sharded else 0, digest.hexdigest())):
        if found.setdefault(place, theirs) != theirs:
            raise BugError(f"the ranks trained different weights: {found[place][:8]}, {theirs[:8]}")


def _answer(session: Session, fit: Fit) -> list[Answer]:
    prompts = fit.config.evaluate.prompts
    if not prompts:
        return []
    session.stage("answering the prompts, before and after")
    return answers(
        fit.model,
        fit.tokenizer,
        prompts,
        max_new_tokens=fit.config.evaluate.max_new_tokens,
        base=lambda: base_alone(fit),
        attention=lambda: plain_attention(fit.model),
        system=fit.config.data.system,
        on_progress=session.progress.tick,
    )
