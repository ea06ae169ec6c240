"""The page: whole, escaped, small, and drawn so that a browser has nothing to complain of."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from report_kit import DONE, PREEMPTED, Make, Told, evaluated, failed, saved, started, step

from packtrain.cli.main import main
from packtrain.errors import ConfigError
from packtrain.report.chart import Level, Line, draw, nice_ticks, number
from packtrain.report.facts import read_facts
from packtrain.report.page import render_comparison, render_run
from packtrain.report.series import Series
from packtrain.report.write import write_report
from packtrain.rundir import RunDir

EVIL = "<script>alert('x')</script> & \"quoted\" 'single'"
ANSWER = {
    "prompt": EVIL,
    "base": EVIL,
    "adapter": "",
    "expect": ["x"],
    "right_before": True,
    "right_after": False,
}
DATA: Told = (
    "data",
    0,
    {
        "format": "dolly",
        "max_length": 64,
        "lengths": [1, 5, 0, 2],
        "findings": {"bad_rows": 2, "truncated_rows": 0, "bad_row_list": [f"a.jsonl:7: {EVIL}"]},
        "train": {
            "rows": 8, "tokens": 100, "supervised_tokens": 40, "bins": 2, "packing_efficiency": 0.8,
            "lengths": {"min": 3, "p50": 20, "max": 60},
        },
        "validation": None,
        "duplicates": {"rows": 1},
        "overlap": {"rows": 0},
    },
)  # fmt: skip
PLAN: Told = (
    "plan",
    0,
    {
        "device": "cpu", "peak_bytes": 10**9, "reserved_bytes": 10**9, "micro_batch": 1, "steps": 6,
        "tokens_per_second": 2000.0, "seconds": {"low": 1, "expected": 2, "high": 3},
        "training_seconds": None, "usd": {"low": 1.0, "expected": 2.0, "high": 3.0},
    },
)  # fmt: skip
ALL: list[Told] = [
    started(), DATA, PLAN, evaluated(0, 4.0), step(1), step(2, loss="nan"), saved(2),
    ("warning", 2, {"message": EVIL}), *(step(n) for n in range(3, 7)), evaluated(6, 2.0),
    ("answers", 6, {"answers": [ANSWER]}),
]  # fmt: skip


class _Checked(HTMLParser):
    """Every element that is opened is closed, and nothing is asked of a network."""

    VOID = frozenset({"meta", "link", "br", "img", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert name not in ("onclick", "onload")
            if name in ("src", "href"):
                assert value == "data:,", value

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(page: str) -> _Checked:
    parser = _Checked()
    parser.feed(page)
    assert parser.open == []
    assert parser.tags.count("script") == 1, "what a model says is no markup"
    assert "http" not in re.sub(r'xmlns="[^"]*"', "", page)
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(re.sub(r" data-hover(?=>)", "", svg))  # noqa: S314  (our own page)
    return parser


@pytest.mark.parametrize(
    "events",
    [
        [],
        [started()],
        [started(), step(1)],
        ALL,
        [*ALL, DONE],
        [*ALL, PREEMPTED],
        [*ALL, failed(79, EVIL)],
        [started(), step(1, loss="inf", grad_norm="nan")],
        [("warning", 0, {"message": "before anything"})],
        [started(), evaluated(0, 4.0)],
    ],
)
def test_a_page_is_whole_in_every_state(make_run: Make, events: list[Told]) -> None:
    page = render_run(read_facts(make_run(events)))
    checked(page)
    assert "alert('x')</script>" not in page


def test_a_page_holds_what_was_asked_for(make_run: Make) -> None:
    page = render_run(read_facts(make_run([*ALL, DONE]), spent_usd=1.25))
    for told in (
        *("Loss", "Learning rate", "Gradient norm", "Speed", "Memory", "Time line", "validation", "base"),
        *("Planned and happened", "2 s (1 s to 3 s)", "2 rows", "bad, and left out", "80.0% full", "40.0%"),
        *("0 to 0 of 1".replace("0 to 0", "1 → 0"), "4.0000 → 2.0000", "1.25 USD", "&lt;script&gt;"),
    ):
        assert told in page, told


def test_runs_are_compared(make_run: Make) -> None:
    one = make_run([*ALL, DONE], name="one", settings={"train": {"epochs": 1.0, "seed": 1}})
    two = make_run([started(), step(1)], name="two", settings={"train": {"epochs": 2.0, "seed": 1}})
    page = render_comparison([read_facts(one), read_facts(two)])
    checked(page)
    assert "train.epochs" in page and "train.seed" not in page and "1 settings are the same" in page
    with pytest.raises(ValueError, match="told apart"):
        render_comparison([read_facts(one)] * 9)


def test_runs_of_one_name_are_told_apart(make_run: Make) -> None:
    run = make_run(ALL)
    assert "a …01A" in render_comparison([read_facts(run), read_facts(run)])


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        write_report(RunDir(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_verb_writes_and_compares(
    make_run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make_run([*ALL, DONE], name="one"), make_run(ALL, name="two")
    assert main(["report", str(one.path)]) == 0
    assert capsys.readouterr().out.strip() == str(one.report_file)
    checked(one.report_file.read_text())
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(one.path), str(two.path), "-o", "both.html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == (tmp_path / "both.html").stat().st_size
    assert main(["report", str(tmp_path / "none")]) == 78
    assert main(["report", *[str(one.path)] * 9]) == 2
    (tmp_path / "file").touch()
    assert main(["report", str(one.path), "-o", str(tmp_path / "file" / "x.html")]) == 74


def test_ticks_are_round_and_inside() -> None:
    for low, high in ((0.0, 1.0), (5.01, 5.93), (0.0, 1e9), (-3.0, 7.0), (1e-7, 9e-7)):
        ticks = nice_ticks(low, high)
        assert 2 <= len(ticks) <= 11
        assert all(low - 1e-9 <= tick <= high + 1e-9 * max(1, high) for tick in ticks)
    assert [number(value) for value in (0, 12_345, 4.5e9, 2e-4, 0.25)] == [
        *("0", "12.35 k", "4.5 G", "2.00e-4", "0.25")
    ]


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0], [0.0, 0.0], [-1.0, 1e12]])
def test_any_values_can_be_drawn(values: list[float]) -> None:
    series = Series()
    for x, value in enumerate(values):
        series.add(x, value)
    drawn = draw("t", "", [Line("a", series)], [Level("b", 1.0), Level("nan", float("nan"))])
    assert drawn is not None
    assert [line.label for line in drawn.lines] == ["a", "b"]
    assert not re.search(r"nan|inf", drawn.lines[0].path)
    assert draw("t", "", [Line("a", Series())]) is None


def test_names_at_lines_do_not_lie_over_each_other() -> None:
    lines = []
    for label in "abcdefgh":
        series = Series()
        series.add(1, 1.0)
        lines.append(Line(label, series))
    drawn = draw("t", "", lines)
    assert drawn is not None
    heights = sorted(line.label_y for line in drawn.lines)
    assert all(after - before >= 12.9 for before, after in itertools.pairwise(heights))


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None and not os.environ.get("CI"), reason="chromium is not installed")
def test_a_browser_has_nothing_to_complain_of(make_run: Make, tmp_path: Path) -> None:
    run = make_run([*ALL, DONE])
    assert BROWSER is not None, "chromium is not installed"
    path = write_report(run)
    ended = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert "CONSOLE" not in ended.stderr
    assert ended.stdout.count("<svg") == 7
    assert 'class="line s0"' in ended.stdout
