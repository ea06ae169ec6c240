"""Images built and run on this machine, by the real buildah and podman, in a store of the tests' own."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("buildah", "podman", "runc")
BASE = "localhost/packtrain-test-base"
#: What a pod of ours may not do either.
RESTRICTED = (
    *("--network=none", "--read-only", "--user=1000:1000", "--cap-drop=all"),
    *("--security-opt=no-new-privileges", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"),
)


def need_programs() -> None:
    """Skips where a user has no container tools; in CI they are installed, so there it fails."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"{', '.join(missing)} not installed; .ci/run installs them")
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    if os.geteuid() != 0:
        pytest.skip("building and running images here needs root")


@dataclass(frozen=True)
class Store:
    """A store of images; ``environment`` leads buildah and podman to it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self.folder / "registries.conf"),
            "BUILDAH_ISOLATION": "chroot",
        }

    def run(self, *words: str, timeout: float = 1800, check: bool = True) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            words,
            env=os.environ | self.environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert ended.returncode == 0 or not check, f"{words}: {ended.stdout[-4000:]}{ended.stderr[-4000:]}"
        return ended

    def build(self, folder: Path, image: str, *options: str) -> None:
        self.run("buildah", "bud", *options, "--tag", image, str(folder))

    def inspect(self, image: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.run("podman", "image", "inspect", image).stdout)[0]
        return told


def make_store(folder: Path, insecure: Sequence[str] = (), mounted: Sequence[str] = ()) -> Store:
    """An empty store. ``insecure``: registries on loopback that speak plain HTTP. ``mounted``: in every
    container, also of a build, as ``HOST:PATH:ro``."""
    folder.mkdir(parents=True)
    places = f'graphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
    driver = "overlay" if _overlay_works(folder) else "vfs"
    (folder / "storage.conf").write_text(f'[storage]\ndriver = "{driver}"\n{places}')
    engine = 'runtime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n'
    # What podman keeps outside of a store, and a reset removes: another test's container may be running.
    engine += f'tmp_dir = "{folder}/tmp"\nlock_type = "file"\n'
    volumes = f"[containers]\nvolumes = {json.dumps(list(mounted))}\n"
    (folder / "containers.conf").write_text(f"{volumes}[engine]\n{engine}")
    listed = "".join(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n' for host in insecure)
    (folder / "registries.conf").write_text(listed)
    return Store(folder)


def _overlay_works(folder: Path) -> bool:
    """Whether layers can lie over each other here; copying each whole works everywhere, slowly."""
    parts = {name: folder / "trial" / name for name in ("lower", "upper", "work", "merged")}
    for part in parts.values():
        part.mkdir(parents=True)
    options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
    merged = str(parts["merged"])
    mounted = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options, merged],
        check=False,
        capture_output=True,
        timeout=60,
    )
    if mounted.returncode == 0:
        subprocess.run(["umount", merged], check=True, timeout=60)
    return mounted.returncode == 0


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The files of ``folder`` at a loopback URL."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing: pip asks for dozens of files."""

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
