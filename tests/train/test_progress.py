"""What a person sees of a run: plain lines in a log, a bar on a terminal (a real pseudo-terminal here)."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from terminal import terminal

from packtrain.rundir import Event
from packtrain.train.progress import (
    PlainProgress,
    Progress,
    Silent,
    TerminalProgress,
    describe,
    duration,
    make_progress,
)


def event(kind: str, step: int = 0, **fields: Any) -> Event:
    return Event(kind, step, 1, 0, "2026-11-24T05:09:42.123Z", fields=fields)


def step(number: int, loss: float | str = 1.25) -> Event:
    return event("step", number, loss=loss, tokens_per_second=12345.6, learning_rate=2e-4)


EVAL = event("eval", 3, model="adapter", loss=1.5, perplexity=4.4817)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (45, "45 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7800, "2 h 10 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_durations_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (step(3), "step 3/10  loss 1.2500  12,346 tokens/s  learning rate 2.00e-04"),
        (EVAL, "step 3: validation loss of the adapter 1.5000 (perplexity 4.48)"),
        (event("eval", model="base", loss=800.0, perplexity="inf"), "800.0000 (perplexity inf)"),
        (event("checkpoint", 4, seconds=0.2), "step 4: checkpoint saved in 0.2 s"),
        (event("warning", message="2 rows are cut"), "warning: 2 rows are cut"),
        (event("start", 5, resumed_from=5), "going on after step 5"),
        (
            event("start", rows=14_712, steps=230, device="cpu", dtype="float32", resumed_from=None),
            "14,712 rows, 230 steps, on cpu in float32",
        ),
    ],
)
def test_a_line_for_an_event(told: Event, line: str) -> None:
    assert (describe(told, 10) or "").endswith(line)


@pytest.mark.parametrize("told", [event("end"), event("published"), event("preempted")])
def test_events_that_say_nothing_to_a_person(told: Event) -> None:
    assert describe(told, 10) is None


def lines_of(interval: float) -> list[str]:
    stream = io.StringIO()
    progress = PlainProgress(stream, interval)
    whole_story(progress)
    return stream.getvalue().splitlines()


def whole_story(progress: Progress) -> None:
    progress.stage("loading the base")
    progress.tick(1, None)
    progress.event(event("warning", message="1 row is [bold]cut[/bold]"))
    progress.begin(0, 3)
    for number in (1, 2, 3):
        progress.event(step(number))
    progress.stage("evaluating", brief=True)
    progress.tick(2_000, 4_000)
    progress.event(EVAL)
    progress.begin(3, 3)
    progress.close()


def test_plain_lines_every_few_seconds() -> None:
    lines = lines_of(3600)
    assert lines[:2] == ["loading the base", "warning: 1 row is [bold]cut[/bold]"]
    assert [line.split("  ")[0] for line in lines[2:]] == [
        "step 3/3",
        "step 3: validation loss of the adapter 1.5000 (perplexity 4.48)",
    ]
    assert re.search(r"  left 0 s  memory \d+\.\d\d GB$", lines[2])


def test_plain_lines_of_all_that_takes_long() -> None:
    lines = lines_of(0)
    assert [line.split("  ")[0] for line in lines] == [
        *("loading the base", "loading the base: 1", "warning: 1 row is [bold]cut[/bold]"),
        *("step 1/3", "step 2/3", "step 3/3", "evaluating: 2,000 of 4,000"),
        "step 3: validation loss of the adapter 1.5000 (perplexity 4.48)",
    ]


def on_a_terminal(kind: type[Progress]) -> str:
    """All that a real terminal gets of :func:`whole_story`."""
    with terminal() as screen, open(screen.end, "w", closefd=False) as stream:
        progress = make_progress(stream)
        assert isinstance(progress, kind)
        whole_story(progress)
    return screen.shown


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    shown = on_a_terminal(TerminalProgress)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "loading the base" in plain
    assert "warning: 1 row is [bold]cut[/bold]" in plain
    assert "training 3/3" in plain
    assert "lr 2.00e-04" in plain
    assert "step 3/3  loss 1.2500" in plain
    assert plain.count("validation loss of the adapter 1.5000 (perplexity 4.48)") == 1
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h")  # the cursor comes back


def test_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "20")
    assert "loading" in on_a_terminal(TerminalProgress)


def test_a_terminal_that_cannot_go_back_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    shown = on_a_terminal(PlainProgress)
    assert shown.startswith("loading the base\r\nwarning: 1 row is [bold]cut[/bold]\r\n")
    assert "\x1b" not in shown


def test_silence_and_what_is_chosen_for_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    whole_story(Silent())
    assert capsys.readouterr() == ("", "")
    assert isinstance(make_progress(io.StringIO()), PlainProgress)
