"""init, schema and version: what they print and write, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packtrain import __version__, runfile

Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_init_writes_a_run_file_that_is_valid_where_it_lies(cli: Cli, here: Path) -> None:
    ended = cli("init")
    assert ended.code == 0
    assert "next: " in ended.out
    names = {path.name for path in here.iterdir()}
    assert names == {"quickstart.yaml", "packtrain-facts.jsonl", "packtrain-facts-validation.jsonl"}
    config = runfile.load(here / "quickstart.yaml").config
    assert config.data.train == str(here / "packtrain-facts.jsonl")
    assert config.output.uri == str(here / "quickstart-adapter")


def test_init_with_another_template_and_place(cli: Cli, here: Path) -> None:
    ended = cli("init", "llama3-8b-dolly", "--output", "jobs/mine.yaml", "--json")
    assert ended.code == 0
    assert json.loads(ended.out) == {"run_file": "jobs/mine.yaml", "files": ["jobs/mine.yaml"]}
    config = runfile.load(here / "jobs/mine.yaml").config
    assert config.model.source == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert config.output.uri == "gs://my-bucket/final_model"


def test_init_into_a_folder(cli: Cli, here: Path) -> None:
    (here / "jobs").mkdir()
    assert cli("init", "-o", "jobs").code == 0
    assert (here / "jobs/quickstart.yaml").is_file()
    assert (here / "jobs/packtrain-facts.jsonl").is_file()


@pytest.mark.parametrize("name", ["quickstart.yaml", "packtrain-facts.jsonl"])
def test_init_overwrites_nothing_unless_forced(cli: Cli, here: Path, name: str) -> None:
    (here / name).write_text("mine")
    ended = cli("init")
    assert ended.code == 73
    assert ended.err.startswith(f"error: {name}: is already there\nhint: ")
    assert [path.name for path in here.iterdir()] == [name]
    assert (here / name).read_text() == "mine"
    assert cli("init", "--force").code == 0
    assert (here / name).read_text() != "mine"


def test_an_unknown_template_is_a_usage_error_with_the_nearest(cli: Cli, here: Path) -> None:
    ended = cli("init", "quikstart")
    assert ended.code == 2
    assert ended.err.startswith("error: quikstart: unknown template; did you mean quickstart?\n")
    assert list(here.iterdir()) == []


def test_init_where_nothing_can_be_written(cli: Cli, here: Path) -> None:
    (here / "file").touch()
    ended = cli("init", "-o", "file/x.yaml")
    assert ended.code == 74
    assert ended.err.startswith("error: cannot write file/")
    assert "Traceback" not in ended.err


def test_schema_prints_the_schema(cli: Cli) -> None:
    ended = cli("schema")
    assert ended.code == 0
    printed = json.loads(ended.out)
    assert printed == runfile.schema()
    assert printed["$defs"]["TrainConfig"]["properties"]["learning_rate"]["default"] == 2e-4
    assert "unknown" not in ended.err


def test_version_is_short_and_verbose_says_what_a_bug_report_needs(cli: Cli) -> None:
    assert cli("version").out == f"packtrain {__version__}\n"
    ended = cli("version", "-v")
    assert ended.code == 0
    facts = dict(line.split(maxsplit=1) for line in ended.out.splitlines())
    assert facts["packtrain"] == __version__
    assert facts["torch"] != "not installed"
    assert int(facts["cpus"]) >= 1
    assert facts.keys() >= {"python", "platform", "transformers", "peft", "gpus"}


def test_version_as_json(cli: Cli) -> None:
    assert json.loads(cli("version", "--json").out) == {"packtrain": __version__}
    facts = json.loads(cli("version", "-v", "--json").out)
    assert isinstance(facts["cpus"], int)
