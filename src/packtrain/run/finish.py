"""What a finished training leaves: files that were loaded again and compared, and their receipt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PreTrainedModel

from packtrain.artifacts.adapter_files import write_adapter
from packtrain.artifacts.model_files import write_model
from packtrain.artifacts.receipt import Receipt, build
from packtrain.artifacts.verify import ReloadReport, reload_check
from packtrain.artifacts.verify_model import reload_model_check
from packtrain.evaluate.answers import Answer, Score, score
from packtrain.model.adapter import Adapter
from packtrain.model.attention import plain_attention
from packtrain.model.folder import weights_dtype
from packtrain.model.parallel import CPU, World
from packtrain.model.weights import load_model
from packtrain.run import facts
from packtrain.run.gates import check_gates
from packtrain.run.pod import image
from packtrain.run.reports import publish_report
from packtrain.run.spread import spread_model
from packtrain.rundir import write_atomically

if TYPE_CHECKING:
    from packtrain.run.fit import Fit
    from packtrain.run.session import Session

SAMPLE_TOKENS = 512
"""Length of the sample on which the logits of what was saved are compared with the trained ones."""


def save_result(session: Session, fit: Fit, made: list[Answer]) -> Receipt:
    """Write the adapter or the model, load it again with plain libraries, compare, write the receipt."""
    config, state = fit.config, fit.state
    result = score(made)
    save = _save_adapter if isinstance(fit.adapter, Adapter) else _save_model
    check = save(session, fit, result)
    check_gates(fit, result, session.run_dir.adapter)
    publish_report(session)
    receipt = build(
        session.run_dir.adapter,
        run_id=session.identity.run_id,
        name=config.name,
        base={
            "source": fit.base.source,
            "identity": fit.base.identity,
            "revision": fit.base.revision,
            "fingerprint": state.fingerprint["base"],
        },
        data=fit.data.report.to_json(),
        metrics=facts.metrics(fit, result) | {"reload_logit_error": check.logit_error},
        seed=config.train.seed,
        config_hash=session.identity.config_hash,
        steps=state.step,
        tokens=state.tokens,
        image=image(),
        kind=config.adapter.kind,
    )
    write_atomically(session.run_dir.receipt_file, receipt.to_json())
    return receipt


def _save_adapter(session: Session, fit: Fit, result: Score | None) -> ReloadReport:
    """The model is a plain base afterwards: the check takes the trained layers out of it, rather than
    hold the base in memory twice.
    """
    adapter = fit.adapter
    assert isinstance(adapter, Adapter)
    session.stage("writing the adapter")
    tensors = adapter.published()
    write_adapter(
        session.run_dir.adapter,
        tensors=tensors,
        lora=adapter.peft_config(),
        base_folder=fit.base.folder,
        base_identity=fit.base.identity,
        base_revision=fit.base.revision,
        tokenizer=fit.tokenizer,
        chat_template=fit.chat_template,
        card=facts.card(session.identity.run_id, fit, result),
        training=facts.training_facts(fit),
    )
    session.stage("loading it again with peft and comparing")
    with plain_attention(fit.model):
        sample, logits = _sample(fit)
        adapter.remove(fit.model)
        return reload_check(
            session.run_dir.adapter,
            base=fit.model,
            tensors=tensors,
            sample_ids=sample,
            expected_logits=logits,
        )


def _save_model(session: Session, fit: Fit, result: Score | None) -> ReloadReport:
    """The second model, for the comparison, takes no more than the optimizer did in training."""
    session.stage("writing the model")
    write_model(
        session.run_dir.adapter,
        model=fit.model,
        dtype=weights_dtype(fit.base.folder),
        base_folder=fit.base.folder,
        tokenizer=fit.tokenizer,
        chat_template=fit.chat_template,
        card=facts.card(session.identity.run_id, fit, result),
        training=facts.training_facts(fit),
    )
    session.stage("loading it again with transformers and comparing")
    with plain_attention(fit.model):
        sample, logits = _sample(fit)
        return reload_model_check(
            session.run_dir.adapter,
            model=fit.model,
            base_folder=fit.base.folder,
            sample_ids=sample,
            expected_logits=logits,
            trust_remote_code=fit.config.model.trust_remote_code,
        )


@contextmanager
def base_alone(fit: Fit) -> Iterator[PreTrainedModel | None]:
    """The base as it was before: ``fit.model`` without its adapter (then this gives None), or read anew."""
    if isinstance(fit.adapter, Adapter):
        with fit.adapter.disabled():
            yield None
    else:
        model = load_model(fit.base, fit.config.model, device=fit.model.device, dtype=fit.model.dtype)
        yield model.eval()


def whole_again(fit: Fit, tensors: Mapping[str, torch.Tensor]) -> Fit:
    """After sharded training, on the main rank alone: the base read anew, with what was trained."""
    world = World(device=_finishing_device(fit, tensors))
    model, trainable, loss = spread_model(
        fit.base,
        fit.config,
        world,
        "data",
        dtype=getattr(torch, fit.state.settings["dtype"]),
        activation_checkpointing=False,
        rows=fit.data.train,
    )
    trainable.load(tensors)
    trainer = replace(
        fit.trainer, loss=loss, adapter=trainable, world=world, device=world.device, sharded=False
    )
    return replace(fit, model=model, trainer=trainer)


def _finishing_device(fit: Fit, tensors: Mapping[str, torch.Tensor]) -> torch.device:
    """The main rank's own, unless that has no room for a whole model and the one that it is compared with."""
    device = fit.trainer.device
    if fit.config.full and device.type == "cuda":
        needed = 2 * sum(tensor.nbytes for tensor in tensors.values())
        return device if torch.cuda.mem_get_info(device)[0] > needed else CPU
    return device


def _sample(fit: Fit) -> tuple[torch.Tensor, torch.Tensor]:
    """The beginning of a training row [T], and the trained model's logits [T, V] there."""
    rows = fit.data.train
    tokens, _ = rows.row(int(np.argmax(np.minimum(rows.lengths, SAMPLE_TOKENS))))
    ids = torch.from_numpy(tokens[:SAMPLE_TOKENS].astype(np.int64))
    with torch.no_grad():
        logits = fit.model(input_ids=ids[None].to(fit.trainer.device), use_cache=False).logits[0]
    return ids, logits.float().cpu()
