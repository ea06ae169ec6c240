"""A tiny Llama as a GGUF file, and inside a wheel: the same weights as the folder it is made from."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name: str) -> str:
    """llama.cpp's name of one of transformers' Llama tensors."""
    stem = name.removesuffix(".weight")
    if stem in NAMES:
        return f"{NAMES[stem]}.weight"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest]}.weight"


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q and k in llama.cpp's order of rotary pairs (convert_hf_to_gguf.py, permute)."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def make_tiny_gguf(
    base: Path,
    path: Path,
    *,
    pre: str | None = "smollm",
    quantised: bool = False,
    arch: str = "llama",
    rope_freqs: np.ndarray | None = None,
    rope_scaling: str | None = None,
    without: str | None = None,
) -> Path:
    """Write the Llama in the folder ``base`` as a GGUF file, in float32 or with Q8_0 matrices."""
    config = json.loads((base / "config.json").read_text())
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    settings = json.loads((base / "tokenizer_config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]

    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if rope_scaling is not None:
        writer.add_string(f"{arch}.rope.scaling.type", rope_scaling)
    _add_tokenizer(writer, config, tokenizer, settings, pre)

    for name, weight in sorted(load_file(base / "model.safetensors").items()):
        if gguf_name(name) == without:
            continue
        data: Any = weight.astype(np.float32)
        if "q_proj" in name or "k_proj" in name:
            data = permuted(data, heads if "q_proj" in name else kv_heads)
        kind = None
        if quantised and data.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            data = gguf.quants.quantize(data, kind)
        writer.add_tensor(gguf_name(name), data, raw_dtype=kind)
    if rope_freqs is not None:
        writer.add_tensor("rope_freqs.weight", rope_freqs)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(
    writer: Any, config: dict[str, Any], tokenizer: dict[str, Any], settings: dict[str, Any], pre: str | None
) -> None:
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    tokens = {index: token for token, index in tokenizer["model"]["vocab"].items()} | special
    tokens[len(tokens)] = "ĠĠ"  # a file needs some merge
    size = config["vocab_size"]
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    # llama.cpp fills up with tokens that nothing produces.
    writer.add_token_list([tokens.get(i, f"[PAD{i}]") for i in range(size)])
    writer.add_token_types([3 if i in special else 1 if i in tokens else 5 for i in range(size)])
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    if settings.get("chat_template"):
        writer.add_chat_template(settings["chat_template"])


def make_wheel(folder: Path, name: str, version: str, members: dict[str, bytes | Path]) -> Path:
    """A wheel that pip downloads: ``members`` and the metadata that pip asks for."""
    stem = name.replace("-", "_")
    path = folder / f"{stem}-{version}-py3-none-any.whl"
    info = f"{stem}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content if isinstance(content, bytes) else content.read_bytes())
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path
