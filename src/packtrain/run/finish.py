"""What a finished training leaves: the adapter's files, checked by plain peft, and the receipt."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from packtrain.artifacts.adapter_files import write_adapter
from packtrain.artifacts.card import CardFacts, base_license
from packtrain.artifacts.receipt import Receipt, build, package_versions
from packtrain.artifacts.training_args import TrainingFacts
from packtrain.artifacts.verify import reload_check
from packtrain.config import identity
from packtrain.evaluate.answers import Answer, Score, score
from packtrain.model.attention import plain_attention
from packtrain.model.parallel import World
from packtrain.run.pod import image
from packtrain.run.spread import spread_model
from packtrain.rundir import write_atomically
from packtrain.train.optimizer import warmup_steps

if TYPE_CHECKING:
    from packtrain.run.fit import Fit
    from packtrain.run.session import Session

SAMPLE_TOKENS = 512
"""Length of the sample on which the saved adapter's logits are compared with the trained ones."""


def save_adapter(session: Session, fit: Fit, made: list[Answer]) -> Receipt:
    """Write the adapter, load it again with plain peft, compare, and write the receipt.

    The model is a plain base afterwards: the check takes the trained layers out of it, rather than
    hold the base in memory twice.
    """
    config, state, adapter = fit.config, fit.state, fit.adapter
    folder = session.run_dir.adapter
    result = score(made)
    session.stage("writing the adapter")
    tensors = adapter.tensors()
    write_adapter(
        folder,
        tensors=tensors,
        lora=adapter.peft_config(),
        base_folder=fit.base.folder,
        base_identity=fit.base.identity,
        base_revision=fit.base.revision,
        tokenizer=fit.tokenizer,
        chat_template=fit.chat_template,
        card=_card(session, fit, result),
        training=_training_facts(fit),
    )
    session.stage("loading it again with peft and comparing")
    with plain_attention(fit.model):
        sample, logits = _sample(fit)
        adapter.remove(fit.model)
        check = reload_check(
            folder, base=fit.model, tensors=tensors, sample_ids=sample, expected_logits=logits
        )
    receipt = build(
        folder,
        run_id=session.identity.run_id,
        name=config.name,
        base={
            "source": fit.base.source,
            "identity": fit.base.identity,
            "revision": fit.base.revision,
            "fingerprint": state.fingerprint["base"],
        },
        data=fit.data.report.to_json(),
        metrics=_metrics(fit, result) | {"reload_logit_error": check.logit_error},
        seed=config.train.seed,
        config_hash=session.identity.config_hash,
        steps=state.step,
        tokens=state.tokens,
        image=image(),
    )
    write_atomically(session.run_dir.receipt_file, receipt.to_json())
    return receipt


def whole_again(fit: Fit, tensors: dict[str, torch.Tensor]) -> Fit:
    """After sharded training, on the main rank alone: the base read anew, with what was trained."""
    world = World(device=fit.trainer.device)
    model, adapter, loss = spread_model(
        fit.base,
        fit.config,
        world,
        "data",
        dtype=getattr(torch, fit.state.settings["dtype"]),
        activation_checkpointing=False,
        rows=fit.data.train,
    )
    adapter.load(tensors)
    trainer = replace(fit.trainer, loss=loss, adapter=adapter, world=world, sharded=False)
    return replace(fit, model=model, trainer=trainer)


def _metrics(fit: Fit, result: Score | None) -> dict[str, Any]:
    state = fit.state
    metrics: dict[str, Any] = {
        "base_loss": state.base_loss,
        "loss": state.loss,
        "train_loss": state.train_loss,
        "train_runtime": round(state.seconds, 3),
        "epoch": round(fit.trainer.plan.epoch_at(state.step), 4),
        "tokens_per_second": round(state.tokens / max(state.seconds, 1e-9), 1),
    }
    if result is not None:
        metrics["answers"] = {"right_before": result.before, "right": result.after, "asked": result.asked}
    return metrics


def _sample(fit: Fit) -> tuple[torch.Tensor, torch.Tensor]:
    """The beginning of a training row [T], and the trained model's logits [T, V] there."""
    rows = fit.data.train
    tokens, _ = rows.row(int(np.argmax(np.minimum(rows.lengths, SAMPLE_TOKENS))))
    ids = torch.from_numpy(tokens[:SAMPLE_TOKENS].astype(np.int64))
    with torch.no_grad():
        logits = fit.model(input_ids=ids[None].to(fit.trainer.device), use_cache=False).logits[0]
    return ids, logits.float().cpu()


def _card(session: Session, fit: Fit, result: Score | None) -> CardFacts:
    state = fit.state
    sections = identity(fit.config)
    return CardFacts(
        name=fit.config.name,
        run_id=session.identity.run_id,
        base_source=fit.base.source,
        base_identity=fit.base.identity,
        base_revision=fit.base.revision,
        data=_source_lines(fit.data.report.sources),
        data_fingerprint=fit.data.train.fingerprint,
        settings={
            f"{name}.{key}": value
            for name in ("data", "adapter", "train")
            for key, value in sections[name].items()
            if key not in ("train", "validation")
        },
        base_loss=state.base_loss,
        loss=state.loss,
        train_loss=state.train_loss,
        answers=None if result is None else (result.before, result.after, result.asked),
        datasets=_hub_datasets(fit.data.report.sources),
        license=base_license(fit.base.folder),
        chat=fit.tokenizer.chat_template is not None,
        versions=package_versions(),
    )


def _source_lines(sources: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each source: the hub's by commit, files by their checksum."""
    lines = []
    for split, source in sources.items():
        if source["revision"]:
            lines.append(f"{split}: `{source['source']}` at revision `{source['revision']}`")
        else:
            lines += [f"{split}: `{file['name']}`, SHA-256 `{file['sha256']}`" for file in source["files"]]
    return lines


def _hub_datasets(sources: dict[str, dict[str, Any]]) -> list[str]:
    return sorted({source["source"].partition(":")[0] for source in sources.values() if source["revision"]})


def _training_facts(fit: Fit) -> TrainingFacts:
    config, state, plan = fit.config.train, fit.state, fit.trainer.plan
    most_bins = max(len(plan.batch(step)) for step in range(1, plan.steps + 1))
    return TrainingFacts(
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        warmup_steps=warmup_steps(config.warmup, plan.steps),
        epochs=plan.epoch_at(state.step),
        steps=state.step,
        micro_batch=fit.trainer.micro_batch,
        accumulation=-(-most_bins // fit.trainer.micro_batch),
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
