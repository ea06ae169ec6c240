"""What the card, the receipt and ``training_args.bin`` say of a finished training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from packtrain.artifacts.card import CardFacts, base_license
from packtrain.artifacts.receipt import package_versions
from packtrain.artifacts.training_args import TrainingFacts
from packtrain.config import identity
from packtrain.evaluate.answers import Score
from packtrain.model.flops import flops_per_token
from packtrain.plan.peak import gpu_peak
from packtrain.train.optimizer import warmup_steps

if TYPE_CHECKING:
    from packtrain.run.fit import Fit


def metrics(fit: Fit, result: Score | None) -> dict[str, Any]:
    state = fit.state
    found: dict[str, Any] = {
        "base_loss": state.base_loss,
        "loss": state.loss,
        "train_loss": state.train_loss,
        "train_runtime": round(state.seconds, 3),
        "epoch": round(fit.trainer.plan.epoch_at(state.step), 4),
        "tokens_per_second": round(state.tokens / max(state.seconds, 1e-9), 1),
    }
    if result is not None:
        found["answers"] = {"right_before": result.before, "right": result.after, "asked": result.asked}
    return found


def speed_is_a_share_of(fit: Fit) -> dict[str, float]:
    """Operations of a token, and those a second that all GPUs together could do; what of it is known."""
    found: dict[str, float] = {}
    train = fit.data.report.train
    needed = flops_per_token(
        fit.model, fit.data.train.lengths, train.supervised_tokens / max(1, train.tokens)
    )
    if needed is not None:
        found["flops_per_token"] = round(needed)
    device, dtype = fit.trainer.device, fit.state.settings["dtype"]
    if device.type == "cuda" and dtype == "bfloat16":
        peak = gpu_peak(torch.cuda.get_device_name(device))
        if peak is not None:
            found["peak_flops"] = peak * fit.trainer.world.size
    return found


def card(run_id: str, fit: Fit, result: Score | None) -> CardFacts:
    state = fit.state
    sections = identity(fit.config)
    if fit.config.full:
        sections["adapter"] = {"kind": "none"}
    return CardFacts(
        name=fit.config.name,
        run_id=run_id,
        base_source=fit.base.source,
        base_identity=fit.base.identity,
        base_revision=fit.base.revision,
        data=_source_lines(fit.data.report.sources),
        data_fingerprint=fit.data.report.train.fingerprint,
        settings={
            f"{name}.{key}": value
            for name in ("data", "adapter", "train")
            for key, value in sections[name].items()
            if key not in ("train", "validation")
            and (key == "kind" or name != "adapter" or not fit.config.full)
        },
        base_loss=state.base_loss,
        loss=state.loss,
        train_loss=state.train_loss,
        answers=None if result is None else (result.before, result.after, result.asked),
        datasets=_hub_datasets(fit.data.report.sources),
        license=base_license(fit.base.folder),
        chat=fit.tokenizer.chat_template is not None,
        versions=package_versions(),
        full=fit.config.full,
    )


def _source_lines(sources: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each source: the hub's by commit, files by their checksum."""
    lines = []
    for split, source in sources.items():
        which = f"{split}, weight {source['weight']:g}" if "weight" in source else split
        if source["revision"]:
            named = ", ".join(f"`{name}`" for name in _names(source))
            lines.append(f"{which}: {named} at revision `{source['revision']}`")
        else:
            lines += [f"{which}: `{file['name']}`, {_content(file)}" for file in source["files"]]
    return lines


def _content(file: dict[str, Any]) -> str:
    """What tells a file's content; one that was streamed was not read whole beforehand."""
    return f"SHA-256 `{file['sha256']}`" if "sha256" in file else f"{file['bytes']:,} bytes"


def _hub_datasets(sources: dict[str, dict[str, Any]]) -> list[str]:
    of_the_hub = [source for source in sources.values() if source["revision"]]
    return sorted({name.partition(":")[0] for source in of_the_hub for name in _names(source)})


def _names(source: dict[str, Any]) -> list[str]:
    named: str | list[str] = source["source"]
    return [named] if isinstance(named, str) else named


def training_facts(fit: Fit) -> TrainingFacts:
    config, state, plan = fit.config.train, fit.state, fit.trainer.plan
    return TrainingFacts(
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        warmup_steps=warmup_steps(config.warmup, plan.steps),
        epochs=plan.epoch_at(state.step),
        steps=state.step,
        micro_batch=fit.trainer.micro_batch,
        accumulation=-(-plan.most_bins // fit.trainer.micro_batch),
        weight_decay=config.weight_decay,
        beta1=config.beta1,
        beta2=config.beta2,
        epsilon=1e-8,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        dtype=state.settings["dtype"],
        activation_checkpointing=state.settings["activation_checkpointing"],
        device=state.settings["device"],
    )
