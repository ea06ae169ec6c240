"""A small Linux from this machine's own files: Python with pip, a shell, and what a Dockerfile calls.

The base image of the tests, in seconds and without a network: programs and libraries at their own paths,
found by ldd. It stands for a public image such as python:3.11-slim.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

PROGRAMS = ("sh", "cat", "cp", "env", "getent", "id", "install", "mkdir", "rm", "true", "useradd")
ELSEWHERE = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Parts of the C library that wheels expect of every Linux (PEP 513, PEP 600).
GLIBC = (
    "libdl.so.2",
    "libm.so.6",
    "libnsl.so.1",
    "libpthread.so.0",
    "libresolv.so.2",
    "librt.so.1",
    "libutil.so.1",
)
_PASSWD = "root:x:0:0:root:/root:/bin/sh\n"
_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


def make_rootfs(folder: Path) -> None:
    """Fills ``folder``, which must not be there yet."""
    folder.mkdir()
    for name in _LINKS:  # as this machine has them
        at = Path("/") / name
        if at.is_symlink():
            (folder / at.readlink()).mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(at.readlink())
    programs = [_found(name) for name in PROGRAMS]
    for program in programs:
        _copy(program, folder)
    python = Path(sys.base_prefix)
    stdlib = Path(
        sysconfig.get_path("stdlib", vars={"base": sys.base_prefix, "installed_base": sys.base_prefix})
    )
    shutil.copytree(
        stdlib,
        folder / stdlib.relative_to("/"),
        ignore=shutil.ignore_patterns(
            "__pycache__", "test", "site-packages", "dist-packages", "config-*", "*.a"
        ),
    )
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    interpreter = (python / "bin" / version).resolve()
    _copy(interpreter, folder)
    (folder / "usr/bin").mkdir(parents=True, exist_ok=True)
    for name in ("python3", version):
        link = folder / "usr/bin" / name
        if not link.exists() and not link.is_symlink():
            link.symlink_to(interpreter)
    extensions = list((stdlib / "lib-dynload").glob("*.so"))
    import numpy
    import pip

    # libstdc++, which PyTorch needs and a public image has, is needed by numpy too.
    native = list(Path(numpy.__file__).parent.glob("**/*.so"))
    needed = {each for each in libraries([*programs, interpreter, *extensions, *native]) if _is_system(each)}
    beside = next(each for each in needed if each.name == "libc.so.6").parent
    for library in needed | {beside / name for name in GLIBC if (beside / name).exists()}:
        _copy(library, folder)
    where = (
        folder / stdlib.relative_to("/") / ("dist-packages" if stdlib.parts[1] == "usr" else "site-packages")
    )
    shutil.copytree(Path(pip.__file__).parent, where / "pip", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in (("passwd", _PASSWD), ("group", "root:x:0:\n"), ("ld.so.conf", _search_path())):
        (folder / "etc").mkdir(exist_ok=True)
        (folder / "etc" / name).write_text(text)
    for name in ("tmp", "var/tmp"):
        (folder / name).mkdir(parents=True)
        (folder / name).chmod(0o1777)
    subprocess.run(["ldconfig", "-r", str(folder)], env={"PATH": ELSEWHERE}, check=True, timeout=60)


def libraries(files: Iterable[Path]) -> set[Path]:
    """The shared libraries, and their loader, that ``files`` need."""
    ended = subprocess.run(
        ["ldd", *map(str, files)], capture_output=True, text=True, check=False, timeout=120
    )
    return {Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", ended.stdout, re.MULTILINE)}


def _is_system(library: Path) -> bool:
    return "site-packages" not in library.parts


def _found(name: str) -> Path:
    path = shutil.which(name, path=ELSEWHERE)
    assert path, name
    return Path(path)


def _copy(file: Path, folder: Path) -> None:
    """``file`` at its own path under ``folder``, and what it is a link to."""
    target = folder / file.relative_to("/")
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(file.resolve(), target)


def _search_path() -> str:
    """Where this machine's loader looks."""
    told = subprocess.run(
        ["ldconfig", "-p"], env={"PATH": ELSEWHERE}, capture_output=True, text=True, check=True, timeout=60
    )
    folders = {str(Path(path).parent) for path in re.findall(r"=> (/\S+)", told.stdout)}
    return "".join(f"{each}\n" for each in sorted(folders))
