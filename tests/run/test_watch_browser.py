"""``watch --web`` in a real browser: it renews itself, complains of nothing, and fits a phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import PHONE, SCREEN, browser, needed
from report_kit import DONE, Make, evaluated, make_run, started, step
from watch_kit import served

from packtrain.rundir import EventWriter

__all__ = ["make_run"]
FITS = "document.documentElement.scrollWidth <= window.innerWidth"


@needed
@pytest.mark.slow
def test_it_renews_itself_until_the_run_has_ended(make_run: Make, tmp_path: Path) -> None:
    run_dir = make_run([started(steps=6), evaluated(0, 4.0), step(1), step(2)])
    with browser(tmp_path / "profile") as page, served(run_dir.path) as server:
        page.look(width=PHONE)
        page.open(server.url)
        assert page.ask("document.body.innerText.includes('2 of 6')") and page.ask(FITS)
        with EventWriter(run_dir.events_file, 2) as writer:
            for kind, at, fields in (started(2, steps=6), step(3), step(4)):
                writer.write(kind, at, **fields)
        page.until("document.body.innerText.includes('4 of 6')")
        for width in (PHONE, SCREEN):
            for dark in (False, True):
                page.look(width=width, dark=dark)
                assert page.ask(FITS), f"wider than {width}"
                back = page.ask("getComputedStyle(document.body).backgroundColor")
                shade = sum(map(int, back.removeprefix("rgb(").removesuffix(")").split(","))) / 3
                assert (shade < 80) == dark, back
        with EventWriter(run_dir.events_file, 3) as writer:
            for kind, at, fields in (started(4, steps=6), step(6), DONE):
                writer.write(kind, at, **fields)
        page.until("document.body.innerText.includes('done and verified')")
        page.until("document.querySelector('meta[http-equiv=refresh]') === null")
        assert page.complaints == []
