"""Every saved model is loaded again, by plain transformers, before anybody gets it.

As for an adapter (:mod:`packtrain.artifacts.verify`): does the folder hold the numbers that were
trained, bit for bit; do they compute what the trained model computed; and was anything learnt at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from packtrain.artifacts.verify import ReloadReport, compare, logit_error
from packtrain.config import ModelConfig
from packtrain.errors import BugError, DivergedError, GateError, StorageError
from packtrain.model.folder import weight_files
from packtrain.model.sources import BaseFiles
from packtrain.model.weights import load_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def reload_model_check(
    folder: Path,
    *,
    model: PreTrainedModel,
    base_folder: Path,
    sample_ids: torch.Tensor,
    expected_logits: torch.Tensor,
    trust_remote_code: bool = False,
) -> ReloadReport:
    """Load the model in ``folder`` and compare it with the trained ``model``, in that one's type.

    ``model``'s weights have to be numbers of the type that they were saved in. ``sample_ids``
    LongTensor [T]: one document. ``expected_logits`` [T', V]: what the trained model says at the last
    T' of its positions.

    Raises what :func:`packtrain.artifacts.verify.reload_check` raises; GateError where every weight is
    the base's.
    """
    import torch

    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise DivergedError(f"the trained model has NaN or infinity in {name}")
    files = BaseFiles(folder, str(folder), None, str(folder))
    settings = ModelConfig(source=str(folder), trust_remote_code=trust_remote_code)
    reloaded = load_model(files, settings, device=model.device, dtype=model.dtype).eval()
    if _same_weights(folder, base_folder):
        raise GateError(
            "the trained model is its base: no weight differs after rounding",
            hint="train for more steps, or with a higher train.learning_rate",
        )
    trained = dict(model.named_parameters())
    compare(dict(reloaded.named_parameters()), trained, f"{folder} as transformers loads it", BugError)
    with torch.inference_mode():
        logits = reloaded(input_ids=sample_ids[None].to(reloaded.device), use_cache=False).logits[0]
    worst, tolerance = logit_error(logits, expected_logits, str(model.dtype))
    if worst > tolerance:
        raise BugError(
            f"{folder}: loaded by transformers, the model computes something else than in training: "
            f"logits differ by {worst:.2g} of their size, {tolerance:.2g} is allowed"
        )
    return ReloadReport(len(trained), len(expected_logits), worst, tolerance)


def _same_weights(folder: Path, base_folder: Path) -> bool:
    """Whether both have the same tensors; ends at the first that differs."""
    import torch
    from safetensors import SafetensorError, safe_open

    places: dict[str, Path] = {}
    try:
        for path in weight_files(base_folder, str(base_folder)):
            with safe_open(path, framework="pt") as file:
                places |= dict.fromkeys(file.keys(), path)
        for path in weight_files(folder, str(folder)):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  (no mapping)
                    if name not in places:
                        return False
                    with safe_open(places[name], framework="pt") as other:
                        if not torch.equal(file.get_tensor(name), other.get_tensor(name)):
                            return False
    except (SafetensorError, OSError) as error:
        raise StorageError(f"{base_folder}: cannot be compared with what was trained: {error}") from error
    return True
