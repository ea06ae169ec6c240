"""An adapter on its way out into other tools: found, put together with its base, written and checked.

A whole model, such as a full fine-tuning makes, goes the same ways, without anything to merge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from packtrain.artifacts.deltas import Deltas
from packtrain.artifacts.gguf_file import GgufWeights, Kind, architecture, heads_of, names_of, write_gguf
from packtrain.artifacts.locate import LocatedAdapter, base_config
from packtrain.artifacts.merge import MergedModel, check_room, write_merged
from packtrain.artifacts.merge_check import peft_logits, relative, sample
from packtrain.artifacts.merged import Merged, Weights
from packtrain.artifacts.ollama import modelfile
from packtrain.artifacts.quantised import AsTrained
from packtrain.artifacts.replace import replaced
from packtrain.artifacts.streamed import layout, logits, skeleton
from packtrain.config import ModelConfig
from packtrain.errors import ConfigError, ConflictError, GateError, StorageError
from packtrain.evaluate.generate import end_of_turn, stop_ids
from packtrain.model.shards import Shards
from packtrain.model.weights import BaseFiles, load_tokenizer, resolve_base
from packtrain.rundir import sync

Say = Callable[[str], None]
#: Largest error of a position's logits, relative to their size: all weights are rounded anew.
GGUF_TOLERANCE: dict[Kind, float] = {"f16": 2e-2, "q8_0": 1.5e-1}
MODEL_NAME = "model.gguf"


@dataclass(frozen=True)
class GgufFile:
    path: Path
    bytes: int
    logit_error: float
    """Largest over positions: RMS of the difference / RMS of the logits."""
    tolerance: float


@dataclass(frozen=True)
class _Whole:
    """A model that is whole: weights by name, and what else there is to it."""

    weights: Weights
    files: BaseFiles
    """With config and tokenizer."""
    logits: Callable[[Tensor], Tensor]
    """What it has to say, at token ids [T]: [T, V]."""


def put_together(located: LocatedAdapter, base: str | None, *, say: Say) -> tuple[Merged, BaseFiles]:
    """The adapter and its base, whose weights stay on disk. ``base``: as for :func:`base_config`."""
    files = resolve_base(base_config(located, base), on_progress=say)
    shards, of = Shards.of(files.folder, files.source), layout(skeleton(files))
    quantised = located.receipt is not None and located.receipt.kind == "qlora"
    as_trained = AsTrained(of, shards.tensors) if quantised else None
    return Merged(shards, Deltas.of(located.folder), of, as_trained), files


def export_merged(located: LocatedAdapter, base: str | None, folder: Path, *, say: Say) -> MergedModel:
    """A folder with the merged model. Errors: those of :func:`put_together` and :func:`write_merged`."""
    if located.full:
        raise ConfigError(
            f"{located.folder}: is a whole model, with nothing to merge", hint="its folder is what you want"
        )
    merged, files = put_together(located, base, say=say)
    made = write_merged(merged, located, files, folder, say=say)
    if isinstance(merged.as_trained, AsTrained):
        made = replace(made, check=replace(made.check, base_drift=merged.as_trained.drift))
    return made


def export_gguf(located: LocatedAdapter, base: str | None, path: Path, kind: Kind, *, say: Say) -> GgufFile:
    """A GGUF file of the merged, or the whole, model.

    Raises ConflictError where ``path`` is there, ConfigError for a model or tokenizer that GGUF cannot
    hold, GateError where the file computes something else, StorageError where it cannot be written.
    """
    path = path.expanduser().absolute()
    if path.exists():
        raise ConflictError(f"{path}: is there already", hint="name a file that is not there")
    new = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = _write_checked(_whole(located, base, say), new, path.stem, kind, say)
        sync(new)
        new.rename(path)
        sync(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        new.unlink(missing_ok=True)
    return replace(made, path=path)


def export_ollama(
    located: LocatedAdapter, base: str | None, folder: Path, kind: Kind, *, say: Say
) -> tuple[GgufFile, bool]:
    """A folder for ``ollama create``; False where its Modelfile has no template.

    Errors: those of :func:`export_gguf`.
    """
    folder = folder.expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"{folder}: is there already", hint="name a folder that is new or empty")
    whole = _whole(located, base, say)
    with replaced(folder) as new:
        made = _write_checked(whole, new / MODEL_NAME, folder.name, kind, say)
        tokenizer = _tokenizer(whole.files)
        special = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
        ends = sorted(stop_ids(_generation(whole.files), tokenizer))
        text, has_template = modelfile(
            MODEL_NAME, tokenizer, [special[end] for end in ends if end in special]
        )
        (new / "Modelfile").write_text(text, encoding="utf-8")
    return replace(made, path=folder / MODEL_NAME), has_template


def _whole(located: LocatedAdapter, base: str | None, say: Say) -> _Whole:
    own = BaseFiles(located.folder, str(located.folder), None, str(located.folder))
    if located.full:
        shards, model = Shards.of(located.folder, own.source), skeleton(own)
        return _Whole(shards, own, lambda ids: logits(model, shards, layout(model), ids))
    merged, files = put_together(located, base, say=say)
    return _Whole(
        merged,
        _with_tokenizer(files, located.folder),
        lambda ids: peft_logits(merged, located.folder, files, ids)[1],
    )


def _with_tokenizer(base: BaseFiles, adapter: Path) -> BaseFiles:
    """The base, with the tokenizer that stands beside the adapter, if one does."""
    has_own = (adapter / "tokenizer_config.json").is_file()
    return replace(base, identity=str(adapter)) if has_own else replace(base, identity=str(base.folder))


def _tokenizer(files: BaseFiles) -> Any:
    return load_tokenizer(replace(files, folder=Path(files.identity)), ModelConfig(source=files.source))


def _generation(files: BaseFiles) -> Any:
    from transformers import GenerationConfig

    found = (files.folder / "generation_config.json").is_file()
    config = GenerationConfig.from_pretrained(files.folder, local_files_only=True) if found else None
    return SimpleNamespace(generation_config=config)


def _write_checked(whole: _Whole, path: Path, name: str, kind: Kind, say: Say) -> GgufFile:
    _need_gguf()
    model = skeleton(whole.files)
    config = model.config
    if isinstance(whole.weights, Merged) and whole.weights.untied:
        config.tie_word_embeddings = False
    _, reorder = architecture(config)
    names, tokenizer = names_of(whole.weights, config), _tokenizer(whole.files)
    check_room(
        path, sum(2 * stored.bytes // stored.dtype.itemsize for stored in whole.weights.tensors.values())
    )
    end = end_of_turn(tokenizer) if tokenizer.chat_template is not None else None
    write_gguf(path, whole.weights, config, tokenizer, name=name, kind=kind, end_of_turn=end, say=say)
    say("comparing the file with what it was made from")
    heads = {each: count for each in names if reorder and (count := heads_of(each, config)) is not None}
    tensors = {each: whole.weights.tensors[each] for each in names}
    ids = sample(replace(whole.files, folder=Path(whole.files.identity)))
    got = logits(model, GgufWeights(path, names, tensors, heads), layout(model), ids)
    worst = relative(got, whole.logits(ids))
    if not worst <= GGUF_TOLERANCE[kind]:
        raise GateError(
            f"{path.name}: computes something else than what it was made from: logits differ by {worst:.2g} "
            f"of their size, {GGUF_TOLERANCE[kind]:.2g} is allowed",
            hint="nothing was written" + ("; --type f16 rounds less" if kind == "q8_0" else ""),
        )
    return GgufFile(path, path.stat().st_size, worst, GGUF_TOLERANCE[kind])


def _need_gguf() -> None:
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise ConfigError("a GGUF file needs an extra", hint="pip install 'packtrain[gguf]'")
