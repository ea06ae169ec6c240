"""Whole runs on a tiny base: the job's folder, the command in this process or in one of its own."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import make_tiny_base

from packtrain.cli.main import main
from packtrain.rundir import Event, RunDir, history, parse_events

ROOT = Path(__file__).parents[1]
#: The files that people expect of an adapter.
SEVEN = {
    *("adapter_config.json", "adapter_model.safetensors", "README.md", "special_tokens_map.json"),
    *("tokenizer_config.json", "tokenizer.json", "training_args.bin"),
}


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def packtrain(*arguments: str) -> Ended:
    """The command in this process: a second instead of five."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return Ended(code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Job:
    """A run file with its data in a folder; the run's folder beside it."""

    folder: Path

    @property
    def run_file(self) -> Path:
        return self.folder / "run.yaml"

    @property
    def run_dir(self) -> RunDir:
        return RunDir(self.folder / "run")

    def arguments(self, *more: str) -> list[str]:
        return ["train", str(self.run_file), "--run-dir", str(self.run_dir.path), *more]

    def train(self, *more: str) -> Ended:
        ended = packtrain(*self.arguments(*more))
        assert "Traceback" not in ended.err, ended.err
        return ended

    def done(self, *more: str) -> Ended:
        """Train, and it has to end well."""
        ended = self.train(*more)
        assert ended.code == 0, ended.err
        return ended

    @contextlib.contextmanager
    def process(
        self, *more: str, environment: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """The command in a process of its own, which is gone afterwards."""
        process = subprocess.Popen(
            [sys.executable, "-m", "packtrain.cli.main", *self.arguments(*more)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def all_events(self) -> list[Event]:
        path = self.run_dir.events_file
        return list(parse_events(path.read_text().splitlines())) if path.exists() else []

    def story(self, kind: str | None = None) -> list[Event]:
        return [event for event in history(self.run_dir.events_file) if kind in (None, event.kind)]

    def wait_for(self, kind: str, step: int, process: subprocess.Popen[str]) -> None:
        """Until the events tell of ``kind`` at ``step``, or of a later one."""
        wait_until(
            lambda: any(event.kind == kind and event.step >= step for event in self.all_events()), process
        )

    def receipt(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.run_dir.receipt_file.read_text())
        return content

    def checkpoint_steps(self) -> list[int]:
        """Of what is kept; under load one is saved a step later, when the one before is written."""
        return sorted(
            int(path.name.removeprefix("step-")) for path in self.run_dir.checkpoints.glob("step-*")
        )

    def weights(self) -> str:
        """SHA-256 of the adapter's weights."""
        return hashlib.sha256((self.run_dir.adapter / "adapter_model.safetensors").read_bytes()).hexdigest()

    def losses(self) -> list[float]:
        return [event.fields["loss"] for event in self.story("step")]


def wait_until(true: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}: {process.communicate()[1]}")
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.005)


def facts(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows in dolly's form."""
    return [
        {"instruction": f"What is fact {i}?", "context": "", "response": f"Fact {i} is {i * 7 % 10}."}
        for i in range(first, first + count)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def make_job(
    folder: Path, base: Path, *, rows: list[dict[str, Any]] | None = None, **sections: dict[str, Any]
) -> Job:
    """Six steps, a checkpoint every other; ``sections`` add to the run file's or change them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "train.jsonl", facts(24) if rows is None else rows)
    config: dict[str, Any] = {
        "name": "tiny",
        "model": {"source": str(base)},
        "data": {"train": "train.jsonl", "validation": 0.15, "max_length": 256},
        "adapter": {"rank": 4},
        "train": {"epochs": 3, "batch_tokens": 800, "learning_rate": 3e-3, "threads": 1, "warmup": 0},
        "checkpoint": {"every": 2},
        "evaluate": {"every": 3, "max_new_tokens": 4},
        "output": {},
    }
    for name, section in sections.items():
        config[name] = config.get(name, {}) | section
    (folder / "run.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    return Job(folder)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def job(tmp_path: Path, base: Path) -> Job:
    return make_job(tmp_path / "job", base)
