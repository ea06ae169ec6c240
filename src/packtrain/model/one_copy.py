"""The base once in a machine's memory, however many ranks compute with it on its CPUs.

transformers maps safetensors files into memory, and what is mapped and not changed is there once for
all processes. That holds until a tensor is converted: then each process has a copy of its own. So
where the files are not of the type that is computed in, the first rank converts them, file by
file, into a folder for the time of loading, and all ranks map that. Removed at once afterwards, its
bytes go when the last rank does.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from packtrain.errors import StorageError
from packtrain.model.folder import check_folder, weight_files
from packtrain.model.parallel import World
from packtrain.model.sources import BaseFiles

PREFIX = "packtrain-base-"
_GUARD = ".guard"


@contextmanager
def one_copy(base: BaseFiles, dtype: torch.dtype, world: World) -> Iterator[BaseFiles]:
    """The base to load while this is entered: ``base`` itself, or one of the same weights as ``dtype``.

    All ranks enter it. Errors: :class:`StorageError` where there is no room in the folder for temporary
    files, and those of :func:`check_folder`.
    """
    check_folder(base.folder, base.source, weights=True)
    if world.local_size == 1 or world.device.type != "cpu" or not _to_convert(base, dtype):
        yield base
        return
    with _folder(world) as folder:
        world.main_first(lambda: _convert(base, folder, dtype) if world.local_rank == 0 else None)
        yield replace(base, folder=folder)
        world.barrier()


def _to_convert(base: BaseFiles, dtype: torch.dtype) -> bool:
    for path in weight_files(base.folder, base.source):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (it is no dict)
                found = file.get_slice(name).get_dtype()
                if found in _FLOATS and _FLOATS[found] != dtype:
                    return True
    return False


#: By safetensors' names.
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@contextmanager
def _folder(world: World) -> Iterator[Path]:
    """A folder that the ranks of this node share, made and removed by the first of them."""
    if world.local_rank:
        yield Path(world.gather("")[world.rank - world.local_rank])
        return
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with (folder / _GUARD).open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            world.gather(str(folder))
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    """Remove what ranks that were killed while they loaded have left: nobody holds its guard."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError), (folder / _GUARD).open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def _convert(base: BaseFiles, folder: Path, dtype: torch.dtype) -> None:
    weights = weight_files(base.folder, base.source)
    try:
        for path in base.folder.iterdir():
            if path not in weights:
                (folder / path.name).symlink_to(path.absolute())
        for path in weights:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata()
            for name, tensor in tensors.items():
                if tensor.is_floating_point():
                    tensors[name] = tensor.to(dtype)
            save_file(tensors, folder / path.name, metadata)
    except OSError as error:
        raise StorageError(
            f"cannot write {folder}: {os.strerror(error.errno) if error.errno else error}",
            hint="the base is converted there once for all processes; TMPDIR names another folder",
        ) from error
