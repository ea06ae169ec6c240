"""A model as a GGUF file, tensor by tensor, and read back before it has its name.

Names and layout are llama.cpp's (convert_hf_to_gguf.py there): Llama's q and k have their rows in the order
of its rotary pairs. Matrices are in float16 or Q8_0 (blocks of 32 with a scale), vectors in float32.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from packtrain.artifacts.gguf_tokenizer import add_tokenizer
from packtrain.artifacts.merged import Weights, blocks
from packtrain.errors import ConfigError
from packtrain.model.gguf import llama3_factors
from packtrain.model.shards import Stored

Kind = Literal["f16", "q8_0"]
Say = Callable[[str], None]
#: transformers' model_type -> llama.cpp's architecture, and whether q and k are reordered.
ARCHITECTURES = {"llama": ("llama", True), "mistral": ("llama", True), "qwen2": ("qwen2", False)}
ARCHITECTURES["qwen3"] = ("qwen3", False)
INSTEAD = "its folder of safetensors opens in vLLM and transformers: --merged DIR"


def architecture(config: Any) -> tuple[str, bool]:
    """Of a model's config. Errors: :class:`ConfigError` for one that is not written to GGUF."""
    if config.model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ConfigError(f"{config.model_type} is not written to GGUF; there are {known}", hint=INSTEAD)
    if config.model_type == "mistral" and getattr(config, "sliding_window", None):
        raise ConfigError("llama.cpp leaves out Mistral's sliding window", hint=INSTEAD)
    return ARCHITECTURES[config.model_type]


def write_gguf(
    path: Path,
    weights: Weights,
    config: Any,
    tokenizer: Any,
    *,
    name: str,
    kind: Kind,
    end_of_turn: int | None,
    say: Say = lambda _: None,
) -> None:
    """Write ``weights``, of a model with ``config``, to ``path``. Errors: :class:`ConfigError`, OSError."""
    import gguf

    arch, reorder = architecture(config)
    names = names_of(weights, config)
    writer = gguf.GGUFWriter(path, arch)
    _add_facts(writer, config, name, kind)
    add_tokenizer(writer, tokenizer, config.vocab_size, end_of_turn)
    factors = _rope_factors(writer, config)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for stored, there in names.items():
        raw, size, shape = _storage(weights.tensors[stored].shape, kind)
        packed = np.dtype(np.uint8 if raw == 8 else np.float32)
        writer.add_tensor_info(there, shape, packed, size, gguf.GGMLQuantizationType(raw))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for number, stored in enumerate(names, 1):
        if number % 20 == 1:
            say(f"writing tensor {number} of {len(names)}")
        heads = heads_of(stored, config) if reorder else None
        writer.write_tensor_data(_converted(weights, stored, kind, heads))
    writer.close()


def names_of(weights: Weights, config: Any) -> dict[str, str]:
    """Name in the model's files -> llama.cpp's."""
    import gguf

    arch, _ = architecture(config)
    key = {value: each for each, value in gguf.MODEL_ARCH_NAMES.items()}[arch]
    known = gguf.get_tensor_name_map(key, config.num_hidden_layers)
    names = {}
    for name in weights.tensors:
        if name.endswith(".rotary_emb.inv_freq") or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        found = known.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ConfigError(f"{name} has no place in a GGUF file of {arch}", hint=INSTEAD)
        names[name] = found
    return names


def heads_of(name: str, config: Any) -> int | None:
    """Of a query or key projection: into how many heads its rows are divided."""
    if ".q_proj." in name:
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if ".k_proj." in name else None


def _storage(shape: Sequence[int], kind: Kind) -> tuple[int, int, tuple[int, ...]]:
    """Type's number, bytes, and the shape that the writer wants."""
    count = int(np.prod(shape))
    if len(shape) < 2:
        return 0, 4 * count, tuple(shape)
    if kind == "q8_0" and shape[-1] % 32 == 0:
        row = shape[-1] // 32 * 34
        return 8, count // 32 * 34, (*shape[:-1], row)
    return 1, 2 * count, tuple(shape)


def _converted(weights: Weights, name: str, kind: Kind, heads: int | None) -> np.ndarray:
    """The whole tensor in its final form; float32 only a block at a time."""
    import gguf

    shape = weights.tensors[name].shape
    raw, _, there = _storage(shape, kind)
    whole = None if heads is None else reordered(weights.read(name).float(), heads)
    target = np.empty(there, dtype={0: np.float32, 1: np.float16, 8: np.uint8}[raw])
    first = 0
    for block in blocks(weights, name) if whole is None else [whole]:
        numbers = block.float().numpy()
        rows = slice(first, first + len(numbers))
        if raw == 8:
            target[rows] = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType.Q8_0)
        else:
            with np.errstate(over="ignore"):
                target[rows] = numbers
        first = rows.stop
    if raw != 8 and not np.isfinite(target).all():
        raise ConfigError(f"{name} has numbers that float16 cannot hold", hint=INSTEAD)
    return target


def reordered(weight: Tensor, heads: int) -> Tensor:
    """Rows of q or k in llama.cpp's order of rotary pairs (``LlamaModel.permute``)."""
    each = weight.shape[0] // heads
    return weight.reshape(heads, 2, each // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def put_back(weight: Tensor, heads: int) -> Tensor:
    """The inverse of :func:`reordered`."""
    each = weight.shape[0] // heads
    return weight.reshape(heads, each // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


def _add_facts(writer: Any, config: Any, name: str, kind: Kind) -> None:
    import gguf

    files = {"f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(files[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)


def _rope_factors(writer: Any, config: Any) -> np.ndarray | None:
    """Tell of the rotary positions; the factors of Llama 3.1's scaling are a tensor."""
    import gguf

    rope = dict(config.rope_parameters or {})
    kind, theta = rope.get("rope_type", "default"), float(rope.get("rope_theta", 10_000.0))
    writer.add_rope_freq_base(theta)
    if kind == "default":
        return None
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
        return None
    if kind == "llama3":
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return llama3_factors(
            theta,
            head,
            float(rope["factor"]),
            low=float(rope["low_freq_factor"]),
            high=float(rope["high_freq_factor"]),
            original=int(rope["original_max_position_embeddings"]),
        )
    raise ConfigError(
        f"its rotary positions are scaled in a way ({kind}) that is not written to GGUF", hint=INSTEAD
    )


@dataclass
class GgufWeights:
    """A GGUF file's tensors, by the names and in the layout of the model's own files."""

    path: Path
    names: dict[str, str]
    tensors: dict[str, Stored]
    heads: dict[str, int]

    def __post_init__(self) -> None:
        import gguf

        self._found = {tensor.name: tensor for tensor in gguf.GGUFReader(self.path).tensors}

    def read(self, name: str, first: int = 0, last: int | None = None) -> Tensor:
        import gguf

        tensor = self._found[self.names[name]]
        heads = self.heads.get(name)
        data = tensor.data if heads is not None else tensor.data[first:last]
        numbers = torch.from_numpy(gguf.quants.dequantize(data, tensor.tensor_type).astype(np.float32))
        if heads is None:
            return numbers
        return put_back(numbers, heads)[first:last]

    def rows(self, name: str, indices: Sequence[int]) -> Tensor:
        return torch.cat([self.read(name, index, index + 1) for index in indices])
