"""The folder of a model whose every weight was trained, as transformers opens one.

The weights go through transformers' own ``save_pretrained``, which knows the names that each
architecture has in files, in the base's type. What was not trained is the base's, byte for byte: its
config, its generation config, its tokenizer and the code that it may bring; so the folder opens in
whatever opens the base.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from packtrain.artifacts.adapter_files import CARD, TRAINING
from packtrain.artifacts.card import CardFacts, render
from packtrain.artifacts.replace import replaced
from packtrain.artifacts.tokenizer_files import tokenizer_files
from packtrain.artifacts.training_args import TrainingFacts, training_args
from packtrain.errors import StorageError
from packtrain.model.quiet import quiet_transformers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

CONFIG = "config.json"
GENERATION = "generation_config.json"
#: A file of weights has at most so many bytes, which every tool and bucket takes in one piece.
SHARD = 5 * 10**9


def write_model(
    folder: Path,
    *,
    model: PreTrainedModel,
    dtype: torch.dtype,
    base_folder: Path,
    tokenizer: Any,
    chat_template: str | None,
    card: CardFacts,
    training: TrainingFacts,
    shard_bytes: int = SHARD,
) -> list[str]:
    """Write ``model`` as ``dtype`` into ``folder``, in place of what was there; the names of its files.

    ``tokenizer``: the base's, loaded. ``chat_template``: the run file's, or None for the base's own.
    Raises StorageError where it cannot be written, ConfigError for a base's file that cannot be read;
    ``folder`` then is what it was.
    """
    files = tokenizer_files(base_folder, tokenizer, chat_template) | {
        CARD: render(card).encode(),
        TRAINING: training_args(training),
    }
    with replaced(folder) as new:
        _save(model, dtype, new, shard_bytes)
        for name in (CONFIG, GENERATION, *(path.name for path in base_folder.glob("*.py"))):
            if (base_folder / name).is_file():
                (new / name).write_bytes((base_folder / name).read_bytes())
        for name, content in files.items():
            (new / name).write_bytes(content)
        return sorted(path.name for path in new.iterdir())


def _save(model: PreTrainedModel, dtype: torch.dtype, folder: Path, shard_bytes: int) -> None:
    from safetensors import SafetensorError

    trained = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    converted: dict[int, torch.Tensor] = {}
    weights = {}
    for name, tensor in model.state_dict().items():
        if name in trained:
            # Tied weights are one tensor here, too: so they are stored once.
            tensor = converted.setdefault(tensor.data_ptr(), tensor.to(dtype))  # noqa: PLW2901
        weights[name] = tensor
    converted.clear()
    try:
        with quiet_transformers():
            model.save_pretrained(folder, state_dict=weights, max_shard_size=shard_bytes)
    except SafetensorError as error:
        raise StorageError(f"cannot write the model to {folder.parent}: {error}") from error
