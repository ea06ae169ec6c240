"""The share of what the machine can do: in the report, in the live view, and not where it is not known."""

from __future__ import annotations

from typing import Any

import pytest
from report_kit import Make, Told, started, step
from whole_run import Job

from packtrain.report.efficiency import efficiency
from packtrain.report.facts import read_facts
from packtrain.report.page import render_run
from packtrain.report.planned import planned_rows
from packtrain.report.story import Story, gather
from packtrain.run.watch_source import Watched
from packtrain.run.watch_view import Standing
from packtrain.rundir import RunDir, stream

PLAN: dict[str, Any] = {
    "device": "cpu", "peak_bytes": 10**9, "reserved_bytes": 10**9, "micro_batch": 1, "steps": 6,
    "tokens_per_second": 2000.0, "seconds": None, "training_seconds": None, "usd": None,
}  # fmt: skip
KNOWN: dict[str, Any] = {"flops_per_token": 1e6}


def told(run_dir: RunDir) -> Story:
    return gather(stream(run_dir.events_file))


def test_on_a_gpu_it_is_mfu_by_the_data_sheet(make_run: Make) -> None:
    start = started(device="cuda", peak_flops=4e9, **KNOWN)
    other = ("plan", 0, PLAN | {"peak_flops": 1e12})  # of a laptop: of another device
    found = efficiency(told(make_run([start, other, step(1)])))
    assert found is not None and (found.name, found.share, found.planned) == ("MFU", 0.25, None)
    plan = ("plan", 0, PLAN | {"device": "cuda", "peak_flops": 8e9})
    found = efficiency(told(make_run([start, plan, step(1)], name="b")))
    assert found is not None and (found.share, found.planned) == (0.25, 0.5), "the GPU that is there counts"


def test_on_a_cpu_it_is_what_planning_measured(make_run: Make) -> None:
    run_dir = make_run([started(**KNOWN), ("plan", 0, PLAN | {"peak_flops": 4e9}), step(1), step(2)])
    story = told(run_dir)
    found = efficiency(story)
    assert found is not None and (found.share, found.planned) == (0.25, 0.5)
    [row] = [row for row in planned_rows(story) if "rate" in row.what]
    assert (row.planned, row.happened) == ("50.0%", "25.0%")
    page = render_run(read_facts(run_dir))
    assert page.count("share of the matrix rate") == 2 and "25.0%" in page
    view = Watched(str(run_dir.path), lambda _: Standing("", None)).look()
    assert "share of the matrix rate 25.0%" in view.figures and view.numbers["efficiency"] == 0.25


@pytest.mark.parametrize(
    "events",
    [
        [],
        [started()],
        [started(), step(1)],
        [started(**KNOWN), step(1)],
        [started(peak_flops=4e9), step(1)],
        [started(**KNOWN, peak_flops=4e9)],
        [started(**KNOWN), ("plan", 0, PLAN), step(1)],
        [started(**KNOWN), ("plan", 0, PLAN | {"device": "cuda", "peak_flops": 4e9}), step(1)],
    ],
)
def test_nothing_is_made_up(make_run: Make, events: list[Told]) -> None:
    run_dir = make_run(events)
    assert efficiency(told(run_dir)) is None
    page = render_run(read_facts(run_dir))
    assert "MFU" not in page and "matrix rate" not in page


def test_a_run_tells_what_its_tokens_need(job: Job) -> None:
    job.done()
    [start] = job.story("start")
    assert start.fields["flops_per_token"] > 1e3
    assert "peak_flops" not in start.fields, "of this CPU nothing is known"
