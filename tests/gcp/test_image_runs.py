"""The image, really built by buildah on a base made on the spot, and really run: it trains.

No network, read-only root, user 1000, no capabilities: what a pod of the "restricted" standard has.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import BASE, RESTRICTED, Store, make_store, need_programs, serving
from rootfs import make_rootfs
from tiny import make_tiny_base
from wheelhouse import MOUNTED, make_wheelhouse
from whole_run import make_job

from packtrain.config import RunConfig
from packtrain.gcp.commands import Programs
from packtrain.gcp.image import local
from packtrain.gcp.image.content import LOCK, Context
from packtrain.gcp.image.recipe import recipe
from packtrain.rundir import parse_events

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "gke-llama3-dolly"
IMAGE, LIKE_EXAMPLE = "localhost/packtrain-test/trainer:1", "localhost/packtrain-test/example:1"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    need_programs()
    folder = tmp_path_factory.mktemp("containers")
    (folder / "libraries").mkdir()
    made = make_store(folder / "store", mounted=[f"{folder / 'libraries'}:{MOUNTED}:ro"])
    yield made
    made.run("podman", "system", "reset", "--force", check=False)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def built(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store with the image, built as ``packtrain image build --local`` builds it."""
    folder = tmp_path_factory.mktemp("build")
    (folder / "wheels").mkdir()
    lock = make_wheelhouse(folder / "wheels", store.folder.parent / "libraries")
    with serving(folder / "wheels") as url:
        _make_base(store, folder / "base", url)
        cluster = {"image": IMAGE}
        sections = {"name": "a", "model": {"source": "m"}, "data": {"train": "d/d"}, "cluster": cluster}
        plan = recipe(RunConfig.model_validate(sections), BASE)
        files = {**plan.context.files, LOCK: lock.encode()}
        plan = dataclasses.replace(plan, context=Context(files, plan.context.content))
        plan.context.write(folder / "context")
        runner = Programs(environment=store.environment)
        heard: list[str] = []
        digest = local.base_digest("buildah", plan.base, runner)
        local.build("buildah", plan, folder / "context", digest, runner, heard.append)
    shutil.rmtree(folder / "wheels")
    assert any("torch" in line for line in heard), "the build is shown while it runs"
    return store


def _make_base(store: Store, folder: Path, index: str) -> None:
    folder.mkdir()
    make_rootfs(folder / "rootfs")
    (folder / "rootfs/etc/pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {index}\n")
    (folder / "Dockerfile").write_text(
        "FROM scratch\nCOPY rootfs /\nENV PATH=/usr/sbin:/usr/bin:/sbin:/bin\n"
    )
    store.build(folder, BASE)


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A tiny job as a pod sees it: a read-only run file and base, and a folder to write."""
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:  # pytest's own are for root alone
        if folder.name.startswith(("pytest-", "popen-")):
            folder.chmod(0o755)
    make_tiny_base(tmp_path / "config" / "base")
    make_job(tmp_path / "config", Path("/etc/packtrain/base"))
    for path in (tmp_path / "config").rglob("*"):  # safetensors writes files for their owner alone
        path.chmod(0o755 if path.is_dir() else 0o644)
    (tmp_path / "work").mkdir()
    shutil.chown(tmp_path / "work", 1000, 1000)
    return tmp_path


def podman(places: Path, *options: str) -> list[str]:
    mounts = [f"--volume={places}/config:/etc/packtrain:ro", f"--volume={places}/work:/work"]
    paths = {"CONFIG": "/etc/packtrain", "WORK": "/work", "CACHE": "/work/cache"}
    variables = [f"--env=PACKTRAIN_{name}={path}" for name, path in paths.items()]
    return ["podman", "run", *RESTRICTED, *mounts, *variables, "--env=TMPDIR=/work", *options]


TRAIN = ("--", "train", "/etc/packtrain/run.yaml", "--run-dir", "/work/run")


def test_the_image_is_as_promised(built: Store) -> None:
    told = built.inspect(IMAGE)
    settings, labels = told["Config"], told["Labels"]
    assert settings["User"] == "1000:1000"
    assert settings["Entrypoint"] == ["python", "-m", "packtrain.run.supervisor"]
    assert labels["org.opencontainers.image.base.name"] == BASE
    assert labels["org.opencontainers.image.base.digest"] == built.inspect(BASE)["Digest"]
    assert not [each for each in settings["Env"] if "TOKEN" in each or "SECRET" in each]
    code = (
        "import json, os, shutil, pathlib, importlib.util as u\n"
        "names = [n for _, _, files in os.walk('/opt/packtrain') for n in files]\n"
        "print(json.dumps({'uid': os.getuid(), 'name': __import__('getpass').getuser(),"
        " 'tools': [n for n in ('gcc', 'cc', 'g++', 'make', 'pip') if shutil.which(n)],"
        " 'pip': u.find_spec('pip') is not None, 'wheels': [n for n in names if n.endswith('.whl')],"
        " 'compiled': sum(n.endswith('.pyc') for n in names),"
        " 'caches': [d for d in ('/root/.cache', '/build') if pathlib.Path(d).exists()]}))"
    )
    ended = built.run("podman", "run", "--rm", *RESTRICTED, "--entrypoint=python", IMAGE, "-c", code)
    found = json.loads(ended.stdout)
    assert found.pop("compiled") > 1000
    assert found == {
        **{"uid": 1000, "name": "packtrain", "tools": [], "pip": False, "wheels": [], "caches": []},
    }


def test_it_trains_with_nothing_but_its_folder(built: Store, places: Path) -> None:
    ended = built.run(*podman(places, "--rm", IMAGE), *TRAIN)
    assert "Fine-tuning complete!" in ended.stdout
    adapter = places / "work/run/adapter/adapter_model.safetensors"
    assert adapter.stat().st_uid == 1000
    receipt = json.loads((places / "work/run/receipt.json").read_text())
    assert receipt["metrics"]["loss"] < receipt["metrics"]["base_loss"]


def test_a_stop_ends_with_75_and_the_next_container_goes_on(built: Store, places: Path) -> None:
    run_file = places / "config/run.yaml"
    run_file.write_text(run_file.read_text().replace("epochs: 3", "epochs: 150"))
    command = podman(places, "--name=stopped", IMAGE)
    events = places / "work/run/events.jsonl"
    process = subprocess.Popen(
        [*command, *TRAIN],
        env=os.environ | built.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + 1200
        while not (events.exists() and '"kind":"step"' in events.read_text().replace(" ", "")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end, "it takes too long"
            time.sleep(0.05)
        built.run("podman", "kill", "--signal=TERM", "stopped")
        _, said = process.communicate(timeout=1200)
    finally:
        process.kill()
        process.wait()
        built.run("podman", "rm", "--force", "stopped", check=False)
    assert process.returncode == 75, said
    ended = built.run(*podman(places, "--rm", IMAGE), *TRAIN)
    assert "Fine-tuning complete!" in ended.stdout
    starts = [event for event in parse_events(events.read_text().splitlines()) if event.kind == "start"]
    assert [start.fields["resumed_from"] is None for start in starts] == [True, False]


def test_a_mistake_has_its_exit_code_through_the_container(built: Store, places: Path) -> None:
    ended = built.run(*podman(places, "--rm", IMAGE), "--", "train", "/etc/packtrain/none.yaml", check=False)
    assert ended.returncode == 78
    assert "none.yaml" in ended.stderr


def test_the_examples_image_runs_its_script(built: Store, places: Path, tmp_path: Path) -> None:
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("image"))
    sections = {"name": "a", "model": {"source": "m"}, "data": {"train": "d/d"}, "cluster": {"image": IMAGE}}
    plan = recipe(RunConfig.model_validate(sections), BASE)
    plan.context.write(folder / "image")
    (folder / "image" / LOCK).write_text(_base_with_libraries(built, tmp_path / "base"))
    built.build(folder, LIKE_EXAMPLE, f"--build-arg=BASE={BASE}:libraries")
    settings = built.inspect(LIKE_EXAMPLE)["Config"]
    assert (settings["Entrypoint"], settings["Cmd"]) == (
        ["python", "/app/scripts/finetune.py"],
        ["/app/run.yaml"],
    )
    ended = built.run(*podman(places, "--rm", LIKE_EXAMPLE), "/etc/packtrain/run.yaml")
    assert "Fine-tuning complete!" in ended.stdout
    assert (places / "work/run/receipt.json").exists()


def _base_with_libraries(built: Store, folder: Path) -> str:
    """A base that has the libraries of the image, so that a gigabyte is not installed twice; the lock file
    for it, whose only package leads to them."""
    folder.mkdir()
    name = "libraries-1-py3-none-any.whl"
    about = "Metadata-Version: 2.1\nName: libraries\nVersion: 1\n"
    files = {
        "libraries.pth": f"/opt/packtrain/lib/python3.11/site-packages\n{MOUNTED}\n",
        "libraries-1.dist-info/METADATA": about,
        "libraries-1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "libraries-1.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    (folder / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    (folder / "Dockerfile").write_text(
        f"FROM {IMAGE}\nUSER 0:0\nENV PATH=/usr/sbin:/usr/bin:/sbin:/bin\nWORKDIR /\n"
        f"COPY pip.conf /etc/pip.conf\nCOPY {name} /wheels/\n"
    )
    built.build(folder, f"{BASE}:libraries")
    sha256 = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return f"libraries==1 --hash=sha256:{sha256}\n"
