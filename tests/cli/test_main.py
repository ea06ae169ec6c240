"""The frame of the command line: help, exit codes, and what a failure looks like."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer

from packtrain import __version__
from packtrain.cli import main as main_module
from packtrain.cli.main import VERBS, verb_function
from packtrain.cli.outcome import fail
from packtrain.errors import ALL, ConfigError, PacktrainError

Cli = Callable[..., Any]
SURFACE = Path(__file__).with_name("surface.txt")
SRC = Path(main_module.__file__).parents[2]


def surface() -> str:
    """All verbs with their arguments and options, a line each."""
    lines = []
    for verb in VERBS:
        app = typer.Typer(rich_markup_mode=None, add_completion=False)
        app.command(verb)(verb_function(verb))
        lines.append(f"packtrain {verb}")
        for parameter in typer.main.get_command(app).params:
            if parameter.param_type_name == "argument":
                name = parameter.name or ""
                lines.append(f"  {name.upper() if parameter.required else f'[{name.upper()}]'}")
            else:
                lines.append(f"  {', '.join([*parameter.opts, *parameter.secondary_opts])}")
    return "\n".join(lines) + "\n"


def test_the_surface_is_what_was_agreed() -> None:
    now = surface()
    if os.environ.get("PACKTRAIN_UPDATE"):
        SURFACE.write_text(now)
    assert now == SURFACE.read_text()


def test_help_names_every_verb(cli: Cli) -> None:
    ended = cli("--help")
    assert ended.code == 0
    for verb, line in VERBS.items():
        group, _, name = verb.rpartition(" ")
        assert f"  {group or name} " in ended.out
        shown = cli(group, "--help").out if group else ended.out
        assert f"  {name} " in shown
        assert line in shown


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_with_its_options(cli: Cli, verb: str) -> None:
    ended = cli(*verb.split(), "--help")
    assert ended.code == 0
    assert ended.out.startswith(f"Usage: packtrain {verb} ")
    assert "--json" in ended.out


def test_no_verb_shows_the_help_and_is_a_usage_error(cli: Cli) -> None:
    ended = cli()
    assert ended.code == 2
    assert "Commands:" in ended.out + ended.err


def test_an_unknown_verb_suggests_the_nearest(cli: Cli) -> None:
    ended = cli("trian")
    assert ended.code == 2
    assert "train" in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("arguments", [("init", "--frce"), ("init", "a", "b"), ("--frce",)])
def test_a_command_line_that_cannot_be_understood_is_exit_2(cli: Cli, arguments: list[str]) -> None:
    ended = cli(*arguments)
    assert ended.code == 2
    assert ended.out == ""


def test_the_version_option(cli: Cli) -> None:
    ended = cli("--version")
    assert (ended.code, ended.out) == (0, f"packtrain {__version__}\n")


@pytest.mark.parametrize("kind", ALL)
def test_our_errors_end_with_their_code(
    capsys: pytest.CaptureFixture[str], kind: type[PacktrainError]
) -> None:
    assert fail(kind("what is wrong", hint="what to do")) == kind.exit_code
    captured = capsys.readouterr()
    assert captured.err == "error: what is wrong\nhint: what to do\n"
    assert captured.out == ""


def test_several_problems_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(ConfigError("a:1: one\na:2: two")) == 78
    assert capsys.readouterr().err == "error: a:1: one\nerror: a:2: two\n"


class OutOfMemoryError(RuntimeError):
    """Named as torch's, which is not imported to tell of a failure."""


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (MemoryError(), 71, "error: out of memory: the host has no more"),
        (
            OutOfMemoryError("CUDA out of memory. Tried\nmore"),
            71,
            "error: out of memory: CUDA out of memory. Tried",
        ),
        (OSError(errno.ENOSPC, "No space left", "runs/a/x"), 74, "error: the disk is full: runs/a/x"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_machine_causes_is_no_bug(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, sentence: str
) -> None:
    assert fail(error) == code
    captured = capsys.readouterr().err
    assert captured.splitlines()[0] == sentence
    assert "Traceback" not in captured


def test_anything_else_is_a_bug_with_its_stack(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        dict[str, int]()["unforeseen"]
    except KeyError as error:
        assert fail(error) == 70
    captured = capsys.readouterr().err
    assert captured.startswith("Traceback")
    assert "this is a bug in packtrain" in captured
    assert "packtrain version -v" in captured


def test_a_terminal_without_unicode_still_gets_an_answer() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "packtrain.cli.main", "schema"],
        env={**os.environ, "PYTHONPATH": str(SRC), "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert json.loads(ended.stdout.decode("latin-1"))["title"] == "packtrain run file"


@contextmanager
def in_a_slow_verb(end: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is inside a verb which takes a minute; ``end``: how its command line is called."""
    code = (
        "import sys, time\nfrom packtrain.cli import main as m\n"
        "def slow() -> None:\n    print('ready', flush=True)\n    time.sleep(60)\n"
        f"m.verb_function = lambda verb: slow\n{end}"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        yield running


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c_is_one_line_and_130() -> None:
    with in_a_slow_verb("sys.exit(m.main(['version']))") as running:
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (130, "interrupted\n")


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("pause", [0.0, 0.001, 0.01, 0.05])
def test_many_ctrl_c_leave_no_trace(pause: float) -> None:
    """Wherever the second and the third come: while the first is told of, or the interpreter ends."""
    with in_a_slow_verb("sys.argv = ['packtrain', 'version']\nm.entry()") as running:
        for _ in range(5):
            running.send_signal(signal.SIGINT)
            time.sleep(pause)
        _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert set(err.splitlines()) <= {"interrupted", "Aborted!", ""}


@pytest.mark.parametrize("arguments", [["schema"], ["--help"], ["version", "-v", "--json"]])
def test_a_reader_that_has_gone_is_no_stack_trace(arguments: list[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "packtrain.cli.main", *arguments],
            env={**os.environ, "PYTHONPATH": str(SRC)},
            stdout=write_end,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(write_end)
    assert ended.stderr == ""
