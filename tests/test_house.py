"""The house rules that a machine can check: the order of imports, what stays light, how files begin."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
FILES = sorted(SRC.glob("packtrain/**/*.py"))

#: From the design: a subject imports from its own rank and from those before it, never from a later one.
ORDER = (
    {"errors", "ending", "own"},
    {"config", "rundir", "storage", "hub", "runfile"},
    {"data", "model"},
    {"evaluate", "artifacts"},
    {"train"},
    {"plan", "report"},
    {"run"},
    {"gcp", "kube"},
    {"api"},
    {"cli"},
)
RANK = {subject: rank for rank, subjects in enumerate(ORDER) for subject in subjects}
HEAVY = ("torch", "transformers", "peft", "datasets", "google", "pyarrow", "numpy", "huggingface_hub")


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(path: Path, *, at_import_only: bool = False) -> Iterator[str]:
    """Modules of packtrain that a file imports, wherever in it; or only those imported when it is."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if at_import_only and (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _type_checking(node)
        ):
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("packtrain"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("packtrain"):
            assert node.level == 0
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else str(node.module)


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def subject(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "examples" else None


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name: str) -> None:
    own = subject(name)
    if own is None:  # packtrain itself gives what `api` offers, and calls two folders by it
        allowed = {"api", "plan", "train"} if name == "packtrain" else set()
        assert {subject(imported) for imported in imports(MODULES[name])} <= allowed
        return
    assert own in RANK, f"{own} has no place in the order of imports"
    later = [
        imported
        for imported in imports(MODULES[name])
        if (other := subject(imported)) is not None and RANK[other] > RANK[own]
    ]
    assert later == []


def test_no_module_imports_itself_over_others() -> None:
    graph = {name: set(imports(path, at_import_only=True)) - {name} for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above[above.index(name) :], name))
        if name not in done:
            for imported in sorted(graph.get(name, ())):
                # A package's __init__ re-exports its own files: they may name the package's other files.
                visit(imported, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_there_is_no_relative_import() -> None:
    for path in FILES:
        levels = [
            node.level for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
        ]
        assert not any(levels), path


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_a_file_says_why_it_exists_and_fits_the_reader(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "begins without a docstring"
    assert len(text.splitlines()) <= 350


def test_nothing_unfinished_is_left() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "XX" + "X:", "NotImplemented" + "Error")
    found = [
        f"{path}: {mark}" for path in FILES for mark in marks if mark in path.read_text(encoding="utf-8")
    ]
    assert found == []


def loaded_by(code: str, *arguments: str) -> set[str]:
    """Top-level modules that a new process has loaded after ``code``."""
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint('LOADED', *sorted(sys.modules))", *arguments],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    line = ended.stdout.splitlines()[-1]
    assert line.startswith("LOADED")
    return {name.partition(".")[0] for name in line.split()[1:]}


def test_importing_packtrain_imports_nothing() -> None:
    plain = loaded_by("import __future__, importlib, inspect, types, typing")
    assert loaded_by("import packtrain") - plain == {"packtrain"}


def test_reading_a_run_file_from_python_imports_no_torch() -> None:
    loaded = loaded_by(
        "import packtrain\npacktrain.load(sys.argv[1], {'train.epochs': 2})",
        str(SRC / "packtrain/examples/quickstart.yaml"),
    )
    assert loaded.isdisjoint({*HEAVY, "rich", "typer"})


def test_help_imports_nothing_heavy() -> None:
    loaded = loaded_by("from packtrain.cli.main import main\nassert main(['--help']) == 0")
    assert "typer" in loaded
    assert loaded.isdisjoint({*HEAVY, "pydantic", "rich", "yaml"})


@pytest.mark.parametrize(
    "verb",
    [
        *("train", "init", "data", "chat", "fetch", "schema", "version", "doctor"),
        *("submit", "status", "logs", "cancel", "delete"),
    ],
)
def test_the_help_of_a_verb_imports_no_torch(verb: str) -> None:
    loaded = loaded_by(f"from packtrain.cli.main import main\nassert main(['{verb}', '--help']) == 0")
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("module", ["submit", "status", "logs", "control", "from_cluster"])
def test_what_only_talks_to_the_cloud_imports_no_torch(module: str) -> None:
    assert loaded_by(f"import packtrain.kube.{module}").isdisjoint(
        {"torch", "transformers", "peft", "datasets"}
    )


def test_checking_a_run_file_imports_no_torch() -> None:
    code = (
        "from pathlib import Path\nfrom packtrain import runfile\n"
        "runfile.load(Path(sys.argv[1]), ['train.epochs=2'])\nrunfile.schema()"
    )
    loaded = loaded_by(code, str(SRC / "packtrain/examples/quickstart.yaml"))
    assert "pydantic" in loaded
    assert loaded.isdisjoint({*HEAVY, "rich"})


@pytest.mark.parametrize("verb", ["train", "data"])
def test_a_bad_run_file_is_refused_before_torch_is_imported(verb: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("name: a\n")
    code = f"from packtrain.cli.main import main\nassert main(['{verb}', sys.argv[1]]) == 78"
    assert loaded_by(code, str(tmp_path / "run.yaml")).isdisjoint({"torch", "transformers", "datasets"})


@pytest.mark.slow
def test_training_imports_only_what_a_step_needs() -> None:
    """transformers itself brings accelerate, where it is installed; all else that takes time comes later."""
    loaded = loaded_by(
        "import packtrain.run.training\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM"
    )
    assert {"torch", "transformers", "numpy"} <= loaded
    later = {"peft", "pyarrow", "rich", "lightkube"}
    never = {"datasets", "pandas", "sklearn", "scipy", "matplotlib", "tensorboard", "trl", "torchvision"}
    assert loaded.isdisjoint(later | never)


@pytest.mark.parametrize("module", ["supervisor", "launch"])
def test_who_starts_the_ranks_imports_no_torch(module: str) -> None:
    assert loaded_by(f"import packtrain.run.{module}").isdisjoint({"torch", "transformers", "numpy"})


def test_the_versions_that_were_tested_are_pinned_for_every_dependency() -> None:
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["gguf"]]
    wanted += project["optional-dependencies"]["dev"]
    pins = [
        Requirement(line)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    pinned = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}
    for requirement in map(Requirement, wanted):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version, prereleases=True), requirement.name


def test_the_version_is_said_once() -> None:
    import tomllib

    from packtrain import __version__

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
