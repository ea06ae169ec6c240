"""The adapter's folder, as peft writes one, made whole or not at all.

Names and fields are peft's own: ``adapter_config.json`` comes out of ``peft.LoraConfig``, the keys in
``adapter_model.safetensors`` are those of ``PeftModel.save_pretrained``. What differs: sets are
written sorted, so that the same adapter gives the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packtrain.artifacts.card import CardFacts, render
from packtrain.artifacts.replace import replaced
from packtrain.artifacts.tokenizer_files import tokenizer_files
from packtrain.artifacts.training_args import TrainingFacts, training_args
from packtrain.own import not_there

if TYPE_CHECKING:
    import torch

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
CARD = "README.md"
TRAINING = "training_args.bin"
#: ``base_model.model.`` is how peft sees the base; the rest is the module's path in the base.
KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.(lora_[AB]\.weight|lora_magnitude_vector|weight)")


def adapter_config(lora: Mapping[str, Any], *, base: str, revision: str | None) -> bytes:
    """``adapter_config.json``: what ``peft.LoraConfig.save_pretrained`` writes, with sets sorted.

    ``lora``: arguments of ``peft.LoraConfig``. ``base`` is what ``from_pretrained`` of transformers
    takes: a hub id or a folder. A folder has no revision that transformers could look up.
    """
    with not_there("bitsandbytes"):
        from peft import LoraConfig

    pinned = None if Path(base).is_absolute() else revision
    config = LoraConfig(**lora, base_model_name_or_path=base, revision=pinned, inference_mode=True)
    fields = {
        key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()
    }
    return json.dumps(fields, indent=2, sort_keys=True).encode()


def adapter_weights(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """``adapter_model.safetensors`` of tensors named as :data:`KEY` says, on any device."""
    from safetensors.torch import save

    strangers = [name for name in tensors if not KEY.fullmatch(name)]
    assert tensors, "an adapter without a tensor"
    assert not strangers, f"not named as peft names them: {strangers}"
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return bytes(save(plain, metadata={"format": "pt"}))


def write_adapter(
    folder: Path,
    *,
    tensors: Mapping[str, torch.Tensor],
    lora: Mapping[str, Any],
    base_folder: Path,
    base_identity: str,
    base_revision: str | None,
    tokenizer: Any,
    chat_template: str | None,
    card: CardFacts,
    training: TrainingFacts,
) -> list[str]:
    """Write the adapter into ``folder``, in place of what was there; returns the names of its files.

    ``tensors``: ``base_model.model.<module path>.lora_A.weight`` [rank, in] and ``.lora_B.weight``
    [out, rank]. ``lora``: arguments of ``peft.LoraConfig``. ``tokenizer``: the base's, loaded.
    ``chat_template``: the run file's, or None for the base's own.

    Raises StorageError where it cannot be written, ConfigError for a base's file that
    cannot be read; ``folder`` then is what it was.
    """
    files = tokenizer_files(base_folder, tokenizer, chat_template) | {
        CONFIG: adapter_config(lora, base=base_identity, revision=base_revision),
        WEIGHTS: adapter_weights(tensors),
        CARD: render(card).encode(),
        TRAINING: training_args(training),
    }
    replace_folder(folder, files.items())
    return sorted(files)


def replace_folder(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Make ``folder`` hold exactly ``files``, or leave it as it is (:class:`StorageError`)."""
    with replaced(folder) as new:
        for name, content in files:
            (new / name).write_bytes(content)
