"""Is a Hugging Face folder whole? Answered from names, sizes and headers, in milliseconds."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packtrain.errors import ConfigError, StorageError

if TYPE_CHECKING:
    import torch

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
#: No header of a real file is larger; safetensors itself has this limit.
LARGEST_HEADER = 100_000_000


def check_folder(folder: Path, source: str, *, weights: bool) -> None:
    """Raise :class:`ConfigError` for what is missing, :class:`StorageError` for a damaged file."""
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ConfigError(
                f"{source}: is an adapter, not a base model", hint="name the model that it was trained on"
            )
        raise ConfigError(f"{source}: has no config.json, so it is not a model's folder")
    _read_json(folder / "config.json")
    if weights:
        for path in weight_files(folder, source):
            _check_safetensors(path)


def weight_files(folder: Path, source: str) -> list[Path]:
    """The safetensors files that transformers loads: one, or all that the index names."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        others = [name for name in ("*.bin", "*.pt", "*.pth", "*.safetensors") if any(folder.glob(name))]
        found = f"; what it has is {', '.join(others)}" if others else ""
        raise ConfigError(
            f"{source}: has no {SINGLE} and no {INDEX}{found}",
            hint="packtrain reads safetensors only; other formats can run code when they are loaded",
        )
    weight_map = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(f"{folder / INDEX}: names no weights")
    names = sorted(set(map(str, weight_map.values())))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"{source}: {len(missing)} of {len(names)} weight files are missing, first {missing[0]}",
            hint=f"{INDEX} names them; fetch the model again",
        )
    return [folder / name for name in names]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: is not readable JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is not a JSON object")
    return content


def _check_safetensors(path: Path) -> None:
    """The header is whole and the file as long as it says.

    Format: https://github.com/huggingface/safetensors#format
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else LARGEST_HEADER + 1
            # What is not there reads as nothing, which is no JSON.
            header = json.loads(file.read(length) if length <= min(size - 8, LARGEST_HEADER) else b"")
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise StorageError(f"{path}: is damaged ({error})", hint="fetch the file again") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise StorageError(
            f"{path}: is damaged ({size:,} bytes instead of {expected:,})", hint="fetch the file again"
        )


def weights_dtype(folder: Path) -> torch.dtype:
    """The type of most bytes in the folder's safetensors files: float32, float16 or bfloat16.

    Weights of any other type count as float32, which is what they are trained in.
    """
    import torch

    sizes: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        for name, tensor in header.items():
            if name != "__metadata__":
                start, end = tensor["data_offsets"]
                sizes[tensor["dtype"]] = sizes.get(tensor["dtype"], 0) + end - start
    most = max(sizes, key=lambda dtype: sizes[dtype], default="F32")
    return {"F16": torch.float16, "BF16": torch.bfloat16}.get(most, torch.float32)
