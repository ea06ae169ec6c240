"""The live view on terminals of two sizes, by textual's own pilot: what is on the screen is read."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from report_kit import DONE, Make, evaluated, make_run, saved, started, step
from terminal import terminal

from packtrain.errors import ConfigError
from packtrain.run.watch_app import WatchApp
from packtrain.run.watch_source import Watched
from packtrain.run.watch_view import Standing
from packtrain.run.watching import on_terminal
from packtrain.rundir import EventWriter, RunDir

__all__ = ["make_run"]
SIZES = [(80, 24), (200, 50)]
TOLD = [started(steps=40), evaluated(0, 4.0), *(step(n) for n in range(1, 21)), saved(20), evaluated(20, 2.0)]
LIMIT = 60.0


def app_of(run: Path) -> WatchApp:
    return WatchApp(Watched(str(run), lambda _: Standing("", False)), 0.1)


def screen(app: WatchApp) -> list[str]:
    width, height = app.size
    return ["".join(part.text for part in row)[:width] for row in app.screen._compositor.render_strips()][
        :height
    ]


async def shown(app: WatchApp, pause: Callable[[], object], *words: str) -> list[str]:
    """The screen, once all of the words are on it."""
    until = time.monotonic() + LIMIT
    while True:
        await asyncio.sleep(0.05)
        rows = screen(app)
        if all(word in "\n".join(rows) for word in words):
            return rows
        assert time.monotonic() < until, "\n".join(rows)


def on_screen(run: Path, size: tuple[int, int], *words: str) -> list[str]:
    async def go() -> list[str]:
        app = app_of(run)
        async with app.run_test(size=size) as pilot:
            rows = await shown(app, pilot.pause, *words)
            await pilot.press("q")
        assert app.return_code == 0
        return rows

    return asyncio.run(go())


@pytest.mark.parametrize("size", SIZES)
def test_all_is_on_the_screen(make_run: Make, size: tuple[int, int]) -> None:
    rows = on_screen(
        make_run(TOLD).path, size,
        "step 20/40", "loss 1.0000", "validation 2.0000", "1,000 tokens/s", "memory 1.00 GB", "left", "50 %",
        "Loss: dots training, o validation, - base", "Events", "checkpoint saved", "q leaves",
        "Speed", "Memory",
    )  # fmt: skip
    assert len(rows) == size[1]
    text = "\n".join(rows)
    assert any(0x2800 < ord(character) < 0x2900 for character in text), "the curve"
    if size[0] == 200:
        assert any("Loss: dots" in row and "Events" in row for row in rows), "beside each other"


def grow(run_dir: RunDir, attempt: int, *told: tuple[str, int, dict[str, object]]) -> None:
    with EventWriter(run_dir.events_file, attempt) as writer:
        for kind, at, fields in told:
            writer.write(kind, at, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", SIZES)
def test_a_run_that_grows_ends_and_goes_on(make_run: Make, size: tuple[int, int]) -> None:
    run_dir = make_run([started(steps=40), step(1)])

    async def go() -> None:
        app = app_of(run_dir.path)
        async with app.run_test(size=size) as pilot:
            await shown(app, pilot.pause, "step 1/40", "attempt 1 goes on")
            grow(run_dir, 2, started(1, steps=40), step(2), step(30))
            await shown(app, pilot.pause, "step 30/40", "attempt 2 goes on", "going on after step 1")
            await pilot.resize_terminal(100, 30)
            await shown(app, pilot.pause, "step 30/40")
            grow(run_dir, 3, started(30, steps=40), step(40), DONE)
            await shown(app, pilot.pause, "step 40/40", "ended: done and verified", "The run has ended")
            assert app.is_running, "it stays"
            await pilot.press("ctrl+c")
        assert app.return_code == 0

    asyncio.run(go())


@pytest.mark.parametrize("size", [*SIZES, (20, 5)])
def test_an_empty_folder_waits(tmp_path: Path, size: tuple[int, int]) -> None:
    on_screen(tmp_path, size, "no events" if size[0] > 20 else tmp_path.name[:5])


def test_what_a_run_says_is_no_markup(make_run: Make) -> None:
    odd = ("warning", 1, {"message": "[bold]a [/nothing] [link=x]"})
    on_screen(make_run([started(), odd]).path, (80, 24), "warning: [bold]a [/nothing] [link=x]")


def test_a_folder_that_cannot_be_read_ends_it_with_its_sentence(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")

    async def go() -> None:
        app = app_of(tmp_path)
        async with app.run_test():
            until = time.monotonic() + LIMIT
            while app.return_value is None and time.monotonic() < until:
                await asyncio.sleep(0.05)
        assert isinstance(app.return_value, ConfigError)

    asyncio.run(go())


def test_without_textual_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "packtrain.run.watch_app")
    for name in [name for name in sys.modules if name.partition(".")[0] == "textual"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "textual", None)
    with pytest.raises(ConfigError, match="needs textual") as told:
        on_terminal(str(tmp_path), lambda _: Standing("", False))
    assert told.value.hint == "pip install 'packtrain[watch]'"


@pytest.mark.slow
def test_the_verb_on_a_real_terminal(make_run: Make) -> None:
    run_dir = make_run([*TOLD, DONE])
    environment = os.environ | {"TERM": "xterm-256color"}
    with terminal() as tty:
        process = subprocess.Popen(
            [sys.executable, "-m", "packtrain.cli.main", "watch", str(run_dir.path)],
            stdin=subprocess.PIPE, stdout=tty.end, stderr=tty.end, env=environment,
        )  # fmt: skip
        until = time.monotonic() + LIMIT
        while "The run has ended" not in tty.plain and time.monotonic() < until:
            time.sleep(0.1)
        process.send_signal(2)
        process.communicate(timeout=LIMIT)
    assert "The run has ended" in tty.plain
    assert process.returncode == 0, tty.plain
