"""A GGUF file becomes a Hugging Face folder, once: weights, config, tokenizer.

transformers reads the weights. What it leaves out of a GGUF file, silently, would train another
model than the file holds, so that is put right here or refused: how digits are split, and the
scaling of rotary positions. Weights are written as float32: block formats such as Q4_1 multiply
and add float16 numbers, which neither float16 nor bfloat16 holds exactly.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packtrain.errors import ConfigError, MemoryExceededError, PacktrainError, StorageError
from packtrain.model.quiet import quiet_transformers
from packtrain.storage.cache import build_once

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"GGUF"
#: Values of ``tokenizer.ggml.pre`` whose vocabularies were learned on single digits and, for the
#: rest, GPT-2's splitting; and those that are GPT-2's splitting alone.
#: Source: llama.cpp, src/llama-vocab.cpp, and the tokenizer.json of the models named.
SINGLE_DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell"})
GPT2_SPLIT = frozenset({"gpt-2", "phi-2", "mpt", "olmo", "jais"})


def convert(path: Path, folder: Path, *, on_progress: Callable[[str], None] | None = None) -> Path:
    """Fill ``folder`` from the GGUF file at ``path``, unless it is there already.

    Errors: :class:`ConfigError` (the extra ``gguf`` is not installed; an architecture, tokenizer or
    position scaling that cannot be carried over), :class:`StorageError` (damaged file, disk full).
    """

    def build(temporary: Path) -> None:
        if on_progress:
            on_progress(f"converting {path.name} to safetensors (once)")
        _convert(path, temporary)

    return build_once(folder, build)


def check_magic(path: Path) -> None:
    """A file that is not GGUF at all is told apart from a damaged one."""
    try:
        with path.open("rb") as file:
            found = file.read(len(MAGIC))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    if found != MAGIC:
        raise ConfigError(f"{path}: is not a GGUF file")


def _convert(path: Path, folder: Path) -> None:
    check_magic(path)
    try:
        import gguf
    except ImportError as error:
        raise ConfigError(
            f"{path.name} is a GGUF file, which needs an extra", hint="pip install 'packtrain[gguf]'"
        ) from error
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        reader = gguf.GGUFReader(path)
        rope = _rope_scaling(reader)
        # transformers looks at a folder: one that holds this file and nothing else.
        # Its reader of GGUF files draws a bar that no setting turns off.
        with (
            tempfile.TemporaryDirectory() as alone,
            quiet_transformers(),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            (Path(alone) / "model.gguf").symlink_to(path.absolute())
            source: dict[str, Any] = {"gguf_file": "model.gguf", "local_files_only": True}
            tokenizer = AutoTokenizer.from_pretrained(alone, **source)
            _split_as_learned(
                tokenizer, _text(reader, "tokenizer.ggml.model"), _text(reader, "tokenizer.ggml.pre")
            )
            model, loading = AutoModelForCausalLM.from_pretrained(
                alone,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
                **source,
            )
            if loading["missing_keys"]:
                # They have random values now, which nobody could tell once they are written.
                raise ValueError(f"it lacks {min(loading['missing_keys'])}")
            model.save_pretrained(folder)
    except Exception as error:
        failure = _failure(error, path)
        if failure is None:
            raise
        raise failure from error
    _finish_config(folder / "config.json", rope)
    _write_tokenizer(tokenizer, folder)


def _failure(error: Exception, path: Path) -> PacktrainError | None:  # noqa: PLR0911  (a return a case)
    """What made a conversion fail, in a sentence; None for a bug of ours."""
    from safetensors import SafetensorError

    first = (str(error) or type(error).__name__).strip().splitlines()[0]
    if isinstance(error, ConfigError):
        return ConfigError(f"{path.name}: {first}", hint=error.hint)
    if isinstance(error, ImportError):
        return ConfigError(f"{path.name}: {first}", hint="pip install 'packtrain[gguf]'")
    if isinstance(error, MemoryError) or "allocate memory" in first:
        return MemoryExceededError(f"{path.name}: its weights do not fit into memory as float32")
    if isinstance(error, OSError | SafetensorError):
        return StorageError(f"cannot convert {path} ({first})")
    if "supported" in first.lower():
        return ConfigError(f"{path.name}: {first}")
    # The readers go by what the file says and stumble where it lies; tokenizers raises plain Exception.
    stumbles = (ValueError, KeyError, TypeError, IndexError, RuntimeError, struct.error)
    if isinstance(error, stumbles) or type(error) is Exception:
        return StorageError(f"{path}: is damaged or cut short ({first})", hint="fetch the file again")
    return None


def _text(reader: Any, key: str) -> str | None:
    field = reader.get_field(key)
    return None if field is None else str(field.contents())


def _split_as_learned(tokenizer: Any, kind: str | None, pre: str | None) -> None:
    """Put right how text is cut before merging, where transformers leaves GPT-2's way for all."""
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    if kind != "gpt2" or not isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        return
    if pre in SINGLE_DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif pre not in GPT2_SPLIT:
        raise ConfigError(
            f"its tokenizer cuts text in a way that is not known ({pre or 'not stated'})",
            hint="take the model's folder or its Hugging Face id instead of this file",
        )


def llama3_factors(
    theta: float,
    dimensions: int,
    factor: float,
    *,
    low: float = 1.0,
    high: float = 4.0,
    original: int = 8192,
) -> np.ndarray:
    """How much longer each wave length becomes, float32 [dimensions / 2]: Llama 3.1's scaling.

    Source: https://github.com/meta-llama/llama-models, models/llama3/model.py, apply_scaling.
    """
    import numpy as np

    wave = 2 * math.pi * theta ** (np.arange(0, dimensions, 2) / dimensions)
    smooth = np.clip((original / wave - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)


def _rope_scaling(reader: Any) -> dict[str, Any] | None:
    """The scaling of rotary positions, which transformers does not read from a GGUF file."""
    import numpy as np

    arch = _text(reader, "general.architecture")
    hint = "take the model's folder or its Hugging Face id instead of this file"
    scaling = _text(reader, f"{arch}.rope.scaling.type")
    tensors = {tensor.name: tensor for tensor in reader.tensors if tensor.name.startswith("rope_f")}
    if not tensors and scaling in (None, "none"):
        return None
    freqs = tensors.get("rope_freqs.weight")
    theta = reader.get_field(f"{arch}.rope.freq_base")
    if scaling in (None, "none") and set(tensors) == {"rope_freqs.weight"} and freqs is not None and theta:
        stored = np.asarray(freqs.data, dtype=np.float32)
        factor = float(stored.max())
        expected = llama3_factors(float(theta.contents()), 2 * stored.size, factor)
        if np.allclose(stored, expected, rtol=1e-3):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }
    raise ConfigError(
        f"its rotary positions are scaled in a way that is not known ({scaling or 'own'})", hint=hint
    )


def _finish_config(path: Path, rope: dict[str, Any] | None) -> None:
    """Rotary positions in the words of transformers 5 and of 4, which else takes its defaults."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for stray in ("_name_or_path", "_model_name_or_path"):
        config.pop(stray, None)
    parameters = config.get("rope_parameters")
    if isinstance(parameters, dict) and "rope_theta" in parameters:
        if rope:
            parameters |= rope
            config["rope_scaling"] = rope | {"rope_theta": parameters["rope_theta"]}
        config["rope_theta"] = parameters["rope_theta"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """The three files, by hand: transformers 5 names a class that 4 has not, and leaves one out."""
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    special = {name: getattr(tokenizer, name) for name in names if getattr(tokenizer, name) is not None}
    added = {
        str(token_id): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for token_id, token in sorted(tokenizer.added_tokens_decoder.items())
    }
    model = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings: dict[str, Any] = {
        "added_tokens_decoder": added,
        "clean_up_tokenization_spaces": False,
        # Without this, transformers 4 makes token_type_ids, which its models refuse.
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": model.get("max_position_embeddings", tokenizer.model_max_length),
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
    }
    if tokenizer.chat_template:
        settings["chat_template"] = tokenizer.chat_template
    for name, content in (("tokenizer_config.json", settings), ("special_tokens_map.json", special)):
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
