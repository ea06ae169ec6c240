"""A folder with a whole model: a base, and an adapter merged into its weights.

File by file as the base's: the same names, the same order, the same types. What the adapter does not
touch is copied. The folder appears when plain transformers' model, reading it, has computed what plain
peft computes with base and adapter; until then it has another name.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from packtrain.artifacts.adapter_files import CARD
from packtrain.artifacts.card import merged_card
from packtrain.artifacts.locate import LocatedAdapter
from packtrain.artifacts.merge_check import MergeReport, check_merge
from packtrain.artifacts.merged import Merged, blocks
from packtrain.artifacts.model_files import CONFIG, GENERATION
from packtrain.artifacts.replace import replaced
from packtrain.artifacts.tokenizer_files import COPIED
from packtrain.errors import ConflictError, StorageError
from packtrain.model.folder import INDEX, weight_files
from packtrain.model.shards import Shards, header
from packtrain.model.weights import BaseFiles

Say = Callable[[str], None]

#: Beside config and tokenizer.json, where the base has them.
VOCABULARY = ("vocab.json", "merges.txt")


@dataclass(frozen=True)
class MergedModel:
    folder: Path
    files: tuple[str, ...]
    bytes: int
    check: MergeReport


def write_merged(
    merged: Merged, located: LocatedAdapter, base: BaseFiles, folder: Path, *, say: Say = lambda _: None
) -> MergedModel:
    """Write and check ``folder``, which must be new or empty.

    Raises ConflictError for one that holds something, StorageError where there is no room or a write
    fails, GateError where the merged model computes something else than base and adapter.
    """
    folder = folder.expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"{folder}: is there already", hint="name a folder that is new or empty")
    sources = weight_files(base.folder, base.source)
    check_room(folder, sum(path.stat().st_size for path in sources))
    with replaced(folder) as new:
        for number, path in enumerate(sources, 1):
            say(f"merging {path.name} ({number} of {len(sources)})")
            _write_shard(merged, path, new / path.name)
        _write_small_files(merged, located, base, new)
        say("comparing the merged model with base and adapter")
        written = BaseFiles(new, str(folder), None, str(folder))
        check = check_merge(merged, located.folder, base, written, Shards.of(new, str(folder)))
        run = f"of run `{located.receipt.run_id}`" if located.receipt else f"`{located.folder.name}`"
        card = merged_card(folder.name, base.identity, base.revision, run, check.sentence)
        (new / CARD).write_text(card, encoding="utf-8")
        files = sorted(path.name for path in new.iterdir())
        size = sum((new / name).stat().st_size for name in files)
    return MergedModel(folder, tuple(files), size, check)


def check_room(place: Path, needed: int) -> None:
    """Raises StorageError where the disk of ``place``, which need not be there, has no such room."""
    existing = next(parent for parent in (place, *place.parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise StorageError(
            f"{place}: {needed / 1e9:.1f} GB are needed, and the disk has {free / 1e9:.1f} GB left"
        )


def _write_shard(merged: Merged, source: Path, target: Path) -> None:
    """The base's file with the adapter in it, a block of rows at a time."""
    entries, _ = header(source)
    names = [name for name in entries if name != "__metadata__"]
    names.sort(key=lambda name: merged.base.tensors[name].offset)
    like = merged.layout.stored(f"{merged.layout.embedding}.weight", names)
    if merged.untied and like is not None:
        end = max(merged.base.tensors[name].offset + merged.base.tensors[name].bytes for name in names)
        begin = end - sum(merged.base.tensors[name].bytes for name in names)
        stored = merged.tensors[merged.untied]
        offsets = [end - begin, end - begin + stored.bytes]
        entries[merged.untied] = {**entries[like], "data_offsets": offsets}
        names.append(merged.untied)
    head = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    with target.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for name in names:
            for block in blocks(merged, name):
                file.write(memoryview(_bytes(block)))


def _bytes(block: Tensor) -> Any:
    return block.contiguous().reshape(-1).view(torch.uint8).numpy() if block.numel() else b""


def _write_small_files(merged: Merged, located: LocatedAdapter, base: BaseFiles, folder: Path) -> None:
    """Byte for byte the base's; the tokenizer's as the adapter was trained with them."""
    for name in (CONFIG, GENERATION, *COPIED, *VOCABULARY):
        sources = (located.folder / name, base.folder / name) if name in COPIED else (base.folder / name,)
        found = next((path for path in sources if path.is_file()), None)
        if found is not None:
            (folder / name).write_bytes(found.read_bytes())
    index = base.folder / INDEX
    if index.is_file() and (folder / sorted(_weight_map(index).values())[0]).is_file():
        (folder / INDEX).write_bytes(index.read_bytes())
    if merged.untied:
        _tell_untied(merged, folder)


def _weight_map(index: Path) -> dict[str, str]:
    return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])


def _tell_untied(merged: Merged, folder: Path) -> None:
    """The one case in which config and index are not the base's: the head has weights of its own now."""
    path = folder / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    (config.get("text_config") or config)["tie_word_embeddings"] = False
    config["tie_word_embeddings"] = False
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    path = folder / INDEX
    if path.is_file():
        assert merged.untied
        index = json.loads(path.read_text(encoding="utf-8"))
        like = merged.layout.stored(f"{merged.layout.embedding}.weight", index["weight_map"])
        index["weight_map"][merged.untied] = index["weight_map"][like]
        index.get("metadata", {})["total_size"] = sum(stored.bytes for stored in merged.tensors.values())
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
