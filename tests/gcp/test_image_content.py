"""What the image is made from, its tag, and its name."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from image_lock import LOCK, ROOT, lock_text, wanted
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from packtrain import __version__
from packtrain.config import RunConfig
from packtrain.errors import ConfigError
from packtrain.gcp.image import DEFAULT_BASE, image_reference
from packtrain.gcp.image.content import (
    CLOUD_BUILD,
    DOCKERFILE,
    WHEEL,
    content_hash,
    context,
    package_files,
    wheel,
)
from packtrain.gcp.image.recipe import recipe
from packtrain.gcp.image.reference import Reference, region

DIGEST = "sha256:" + "a" * 64


def config(**cluster: Any) -> RunConfig:
    sections: dict[str, Any] = {"name": "a", "model": {"source": "m"}, "data": {"train": "t.jsonl"}}
    return RunConfig.model_validate(sections | {"cluster": cluster})


def ours(**more: Any) -> RunConfig:
    return config(project="my-project", location="us-central1-a", **more)


def test_the_tag_is_the_content_and_nothing_else() -> None:
    files = {"Dockerfile": b"FROM a", "requirements.lock": b"b==1", "packtrain/a.py": b"", "base": b"x"}
    first = content_hash(files)
    assert content_hash(dict(reversed(files.items()))) == first
    for name in files:
        assert content_hash(files | {name: b"other"}) != first, name
    assert content_hash(files | {"packtrain/b.py": b""}) != first
    assert content_hash({"ab": b"c"}) != content_hash({"a": b"bc"})


def test_another_base_is_another_content_and_the_same_base_the_same() -> None:
    assert context().content == context(DEFAULT_BASE).content
    assert context("docker.io/library/python:3.11").content != context().content
    assert re.fullmatch(rf"{re.escape(__version__)}-[0-9a-f]{{12}}", context().tag)


def test_the_wheel_is_the_installed_package_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    files = dict(package_files())
    data = wheel(files)
    assert wheel(dict(reversed(files.items()))) == data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        assert archive.read("packtrain/__init__.py") == (ROOT / "src/packtrain/__init__.py").read_bytes()
        info = f"packtrain-{__version__}.dist-info"
        record = {row[0]: row[1:] for row in csv.reader(archive.read(f"{info}/RECORD").decode().splitlines())}
        scripts = archive.read(f"{info}/entry_points.txt").decode()
        about = archive.read(f"{info}/METADATA").decode()
    assert record.keys() == set(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    assert {"packtrain/py.typed", "packtrain/gcp/image/Dockerfile", "packtrain/plan/machines.toml"} <= set(
        names
    )
    assert "packtrain = packtrain.cli.main:entry" in scripts
    assert "extra ==" not in about
    assert "Requires-Dist: torch" in about
    (tmp_path / WHEEL).write_bytes(data)
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    command += ["--target", str(tmp_path / "site"), str(tmp_path / WHEEL)]
    subprocess.run(command, check=True, timeout=120)
    told = subprocess.run(
        [sys.executable, "-m", "packtrain.cli.main", "--version"],
        env={"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert told.stdout == f"packtrain {__version__}\n"


def test_the_context_holds_nothing_else(tmp_path: Path) -> None:
    context().write(tmp_path / "new" / "folder")
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {
        *(DOCKERFILE, CLOUD_BUILD, "requirements.lock", WHEEL)
    }


def test_what_is_not_installed_cannot_be_put_into_an_image(tmp_path: Path) -> None:
    code = (
        "from packtrain.gcp.image.content import context\nfrom packtrain.errors import ConfigError\n"
        "try:\n    context()\nexcept ConfigError as error:\n    print(error)"
    )
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "packtrain").symlink_to(ROOT / "src" / "packtrain")
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {[str(tmp_path / 'src')]}\n{code}"]
    # -S: no site-packages, but what the code itself imports.
    told = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(_pydantic(tmp_path))},
    )
    assert "has not been installed" in told.stdout, told.stderr


def _pydantic(folder: Path) -> Path:
    """A folder with pydantic and what it needs, and no packtrain's metadata."""
    import pydantic

    site = Path(pydantic.__file__).parents[1]
    links = folder / "site"
    links.mkdir()
    for name in ("pydantic", "pydantic_core", "annotated_types", "typing_inspection", "typing_extensions.py"):
        (links / name).symlink_to(site / name)
    return links


def test_the_lock_has_the_tested_versions_with_their_hashes() -> None:
    lines = [line for line in LOCK.read_text().replace("\\\n", "").splitlines() if not line.startswith("#")]
    locked = {}
    for line in lines:
        found = re.fullmatch(r"([a-z0-9.-]+)==(\S+)\s+--hash=sha256:[0-9a-f]{64}", line.strip())
        assert found, line
        locked[canonicalize_name(found[1])] = found[2]
    assert lines == sorted(lines)
    for requirement in map(Requirement, wanted()):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement.name
    pins = [
        Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] != "#"
    ]
    pinned = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}
    assert {name: locked[name] for name in locked if locked[name] != pinned.get(name, locked[name])} == {}
    assert "nvidia-nccl-cu13" in locked, "PyTorch for CUDA"
    assert not set(locked) & {"pytest", "ruff", "mypy", "packtrain"}


def test_a_lock_is_made_from_what_pip_reports() -> None:
    entry = {
        "metadata": {"name": "Some_Name", "version": "1.0"},
        "download_info": {"archive_info": {"hashes": {"sha256": "b" * 64}}},
    }
    assert lock_text({"install": [entry]}).endswith(f"some-name==1.0 \\\n    --hash=sha256:{'b' * 64}\n")


def test_the_builds_arguments_are_the_dockerfiles() -> None:
    made = recipe(ours())
    text = made.context.files[DOCKERFILE].decode()
    declared = set(re.findall(r"^ARG (\w+)", text, re.MULTILINE))
    assert declared == made.build_arguments(DIGEST).keys()
    build = yaml.safe_load(made.context.files[CLOUD_BUILD])
    given = {
        arg.removeprefix("--build-arg=").partition("=")[0]
        for arg in build["steps"][0]["args"]
        if "build-arg" in arg
    }
    assert given == declared
    assert f"ARG BASE={DEFAULT_BASE}\n" in text


def test_the_dockerfile_keeps_the_promises_of_the_image() -> None:
    last = context().files[DOCKERFILE].decode().split("\nFROM ")[-1]
    assert "USER 1000:1000\n" in last
    assert 'ENTRYPOINT ["python", "-m", "packtrain.run.supervisor"]' in last
    assert not re.search(r"apt-get|pip |gcc|TOKEN|SECRET", last)


def test_the_dockerfile_passes_the_linter() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert program, "hadolint is in the dev extra"
    folder = ROOT / "src/packtrain/gcp/image"
    for path in (folder / DOCKERFILE, ROOT / "examples/gke-llama3-dolly/Dockerfile"):
        # The linter sees neither the tag in BASE (DL3006), nor that the last stage is not root's (DL3002).
        ended = subprocess.run(
            [program, "--ignore=DL3006", "--ignore=DL3002", "--format", "json", str(path)],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert json.loads(ended.stdout) == [], path


def test_the_image_of_a_run_by_default() -> None:
    image = image_reference(ours())
    assert image == f"us-central1-docker.pkg.dev/my-project/packtrain/trainer:{context().tag}"
    assert image_reference(config(project="my-project", location="europe-west4")).startswith(
        "europe-west4-docker"
    )


@pytest.mark.parametrize(
    ("named", "wanted"),
    [
        ("eu-docker.pkg.dev/p/r/i:v1", "eu-docker.pkg.dev/p/r/i:v1"),
        (f"eu-docker.pkg.dev/p/r/i@{DIGEST}", f"eu-docker.pkg.dev/p/r/i@{DIGEST}"),
        ("eu-docker.pkg.dev/p/r/i", f"eu-docker.pkg.dev/p/r/i:{context().tag}"),
        ("localhost:5000/i", f"localhost:5000/i:{context().tag}"),
    ],
)
def test_an_image_that_the_run_file_names(named: str, wanted: str) -> None:
    assert image_reference(config(image=named)) == wanted


@pytest.mark.parametrize(
    "named", ["", "A/b", "a b", "a@sha256:1", "/a", "a/", "a:", "a:b/c:", f"a@{DIGEST}x"]
)
def test_what_names_no_image_is_refused(named: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.image: .* is no name of an image"):
        image_reference(config(image=named))


def test_without_a_place_there_is_no_image() -> None:
    with pytest.raises(ConfigError, match=r"no cluster\.project and no cluster\.location"):
        image_reference(config())


@pytest.mark.parametrize(
    ("text", "host", "path", "project"),
    [
        ("python:3.11", "docker.io", "library/python", None),
        ("docker.io/library/python", "docker.io", "library/python", None),
        ("me/mine", "docker.io", "me/mine", None),
        ("127.0.0.1:5000/a/b:1", "127.0.0.1:5000", "a/b", None),
        (
            "us-central1-docker.pkg.dev/my-project/r/i:1",
            "us-central1-docker.pkg.dev",
            "my-project/r/i",
            "my-project",
        ),
        ("us-docker.pkg.dev/ex.com/p-1/r/i", "us-docker.pkg.dev", "ex.com/p-1/r/i", "ex.com:p-1"),
    ],
)
def test_references_are_read(text: str, host: str, path: str, project: str | None) -> None:
    image = Reference.parse(text)
    assert (image.host, image.path, image.project, str(image)) == (host, path, project, text)


def test_regions() -> None:
    assert [region(each) for each in ("us-central1", "us-central1-a", "europe-west4-b")] == [
        *("us-central1", "us-central1", "europe-west4")
    ]


def test_a_recipe_of_a_finished_image_is_refused() -> None:
    with pytest.raises(ConfigError, match="has a digest, so it is built already"):
        recipe(config(image=f"a.b/c@{DIGEST}"))


def test_a_tag_of_the_users_own_is_always_built() -> None:
    assert recipe(ours()).tagged_by_content
    assert recipe(ours(image="a.b/c")).tagged_by_content
    assert not recipe(ours(image="a.b/c:mine")).tagged_by_content
    assert not recipe(ours()).needs_naming
    assert recipe(ours(), "python:3.11").needs_naming


def test_the_image_is_in_the_wheel_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["src/packtrain"]
