"""The base's tokenizer and weights, from the files that :mod:`packtrain.model.sources` found.

All of it is checked: a weight that is not in the files would else be made up at random, and a model
that looks both ways would be trained as if it did not.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packtrain.config import ModelConfig
from packtrain.errors import AccessError, ConfigError, MemoryExceededError, PacktrainError, StorageError
from packtrain.model.folder import check_folder
from packtrain.model.quiet import quiet_transformers
from packtrain.model.sources import BaseFiles, resolve_base

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["BaseFiles", "load_model", "load_tokenizer", "resolve_base"]

#: What transformers raises for files that are not as it expects.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError)


def load_tokenizer(base: BaseFiles, config: ModelConfig) -> PreTrainedTokenizerBase:
    """The base's tokenizer, a fast one. Errors: :class:`ConfigError`."""
    from transformers import AutoTokenizer

    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                base.folder, trust_remote_code=config.trust_remote_code, local_files_only=True
            )
        except UNREADABLE as error:
            if isinstance(error, ValueError) and not _has_tokenizer(base.folder):
                raise ConfigError(
                    f"{base.source}: has no tokenizer",
                    hint="put the base's tokenizer.json and tokenizer_config.json beside its config.json",
                ) from error
            raise _unusable(base, "its tokenizer cannot be loaded", error) from error
        except Exception as error:
            # The tokenizers library raises plain Exception for a file that it cannot read.
            if type(error) is not Exception:
                raise
            raise _unusable(base, "its tokenizer cannot be loaded", error) from error
    if not getattr(tokenizer, "is_fast", False) or not len(tokenizer):
        raise ConfigError(
            f"{base.source}: has no fast tokenizer (tokenizer.json)",
            hint="convert it once with transformers and save it beside the weights",
        )
    return tokenizer


def load_model(
    base: BaseFiles, config: ModelConfig, *, device: torch.device, dtype: torch.dtype, packed: bool = False
) -> PreTrainedModel:
    """The base with the weights of its files, every one of them, on ``device`` as ``dtype``.

    ``packed``: its linear layers, but the head, in 4 bits (:mod:`packtrain.model.nf4`).

    Errors: :class:`ConfigError` (not a causal language model, weights missing or of another shape),
    :class:`StorageError` (a damaged file), :class:`MemoryExceededError`.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    from packtrain.model.frame import Frame

    check_folder(base.folder, base.source, weights=True)
    if packed:
        from packtrain.model import nf4
    with quiet_transformers(), nullcontext() if packed else Frame():
        model_config = checked_config(base, config)
        try:
            model, loading = AutoModelForCausalLM.from_pretrained(
                base.folder,
                config=model_config,
                dtype=dtype,
                # On a GPU each tensor goes straight from the file to the device.
                device_map=None if device.type == "cpu" and not packed else {"": str(device)},
                **({"quantization_config": nf4.settings(dtype)} if packed else {}),
                trust_remote_code=config.trust_remote_code,
                local_files_only=True,
                output_loading_info=True,
            )
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise _too_large(base) from error
        except SafetensorError as error:
            raise StorageError(f"{base.folder}: its weights are damaged ({error})") from error
        except (*UNREADABLE, RuntimeError) as error:
            if "allocate memory" in str(error):
                raise _too_large(base) from error
            raise _unusable(base, "its weights cannot be loaded", error) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ConfigError(
            f"{base.source}: {len(missing)} weights of {type(model).__name__} are not in its files: "
            + ", ".join(missing[:3])
            + (", …" if len(missing) > 3 else ""),
            hint="the files are of another model, or not all of them are there",
        )
    if packed:
        nf4.use_own_product(model)
    return model


def checked_config(base: BaseFiles, config: ModelConfig) -> Any:
    """The model's config, if it is of a causal language model whose weights are plain numbers."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        found = AutoConfig.from_pretrained(
            base.folder, trust_remote_code=config.trust_remote_code, local_files_only=True
        )
    except (*UNREADABLE, StrictDataclassError) as error:
        raise _unusable(base, "its config.json cannot be used", error) from error
    if getattr(found, "quantization_config", None):
        method = dict(found.quantization_config).get("quant_method", "some method")
        raise ConfigError(
            f"{base.source}: is quantised already ({method}), and an adapter is trained on plain weights",
            hint="take the model that it was made from",
        )
    if config.trust_remote_code and getattr(found, "auto_map", None):
        return found  # its own code says what it is
    names = getattr(found, "architectures", None) or []
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    # Models such as BERT have a causal variant too; is_decoder says whether this is one.
    encoder = getattr(found, "is_decoder", True) is False
    known = found.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not known or encoder or (names and not causal & set(names)):
        is_a = names[0] if names else found.model_type
        raise ConfigError(
            f"{base.source}: is not a causal language model but {is_a}",
            hint="packtrain trains models that transformers' AutoModelForCausalLM knows, such as Llama",
        )
    return found


def _has_tokenizer(folder: Path) -> bool:
    """Whether any file there looks like a part of one."""
    return any(any(folder.glob(name)) for name in ("*token*", "vocab*", "*.model"))


def _unusable(base: BaseFiles, what: str, error: BaseException) -> PacktrainError:
    text = str(error)
    if "trust_remote_code" in text:
        return ConfigError(
            f"{base.source}: comes with Python code of its own, which is not run unasked",
            hint="read that code, then set model.trust_remote_code: true",
        )
    if isinstance(error, PermissionError):
        return AccessError(f"{base.folder}: may not be read ({error.strerror})")
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return ConfigError(f"{base.source}: {what} ({' '.join(lines[:2])[:300]})")


def _too_large(base: BaseFiles) -> MemoryExceededError:
    return MemoryExceededError(
        f"{base.source}: does not fit into memory", hint="take a smaller model or dtype"
    )
