"""The paragraph: every end has a cause, and something to do next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_kit import DONE, PREEMPTED, Make, Told, evaluated, failed, saved, started, step

from packtrain.cli.main import main
from packtrain.errors import BY_EXIT_CODE
from packtrain.report.explain import NEXT, explain
from packtrain.report.story import Story, gather
from packtrain.rundir import stream


def told(make_run: Make, *attempts: list[Told]) -> Story:
    return gather(stream(make_run(*attempts).events_file))


@pytest.mark.parametrize("code", sorted(BY_EXIT_CODE))
def test_every_exit_code_has_its_meaning_and_a_next_step(make_run: Make, code: int) -> None:
    said = explain(told(make_run, [started(), step(1), saved(1), failed(code, "row 7 is bad")]))
    assert f"exit code {code} (" in said and "row 7 is bad." in said
    assert NEXT[code] in said and "checkpoint is of step 1" in said
    assert ("Nothing tries it again" in said) == (BY_EXIT_CODE[code].retry == "no")


def test_a_run_that_is_done_says_whether_it_is_better(make_run: Make) -> None:
    published: Told = ("published", 6, {"uri": "gs://b/x", "seconds": 1.0, "bytes": 9})
    story = told(make_run, [started(), evaluated(0, 3.0), step(6), evaluated(6, 2.0), published, DONE])
    assert "done and verified; its validation loss of 2.0000 is better than the base's 3.0000" in explain(
        story
    )
    assert "gs://b/x" in explain(story)


def test_one_that_is_worse_says_so(make_run: Make) -> None:
    story = told(make_run, [started(), evaluated(0, 2.0), step(6), evaluated(6, 3.0), DONE])
    assert "NOT better" in explain(story)


def test_a_preemption_is_no_failure(make_run: Make) -> None:
    said = explain(told(make_run, [started(), step(1), PREEMPTED]))
    assert "asked to stop (SIGTERM)" in said and "goes on from there" in said and "failed" not in said


def test_one_without_a_last_word_may_have_been_killed(make_run: Make) -> None:
    story = told(make_run, [started(), step(1), saved(1), step(2)])
    said = explain(story, now=story.attempts[-1].until + 90)
    assert "no last word (the latest is a step event at step 2, 1 min 30 s ago)" in said
    assert "the same command goes on from step 1" in said
    assert "In the cluster: the pod was evicted." in explain(story, cluster="the pod was evicted")
    assert "no last word" not in explain(story, finishing=True)


def test_earlier_attempts_are_told(make_run: Make) -> None:
    lost = failed(69, "a peer is gone")
    story = told(make_run, [started(), lost], [started(), lost], [started(), PREEMPTED], [started(), DONE])
    assert "Before that: 2 × failed with exit code 69, 1 × preempted." in explain(story)


def test_nothing_has_begun() -> None:
    assert explain(gather([])) == "The run has not begun: it has no events yet."


def test_an_exit_code_of_another_version_is_told_without_advice(make_run: Make) -> None:
    assert "exit code 99: odd." in explain(told(make_run, [started(), failed(99, "odd")]))


def test_the_verb(make_run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run([started(), step(1), failed(65, "train.jsonl:7: no response")])
    assert main(["explain", str(run.path)]) == 0
    assert "train.jsonl:7: no response" in capsys.readouterr().out
    assert main(["explain", str(run.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exit_code"] == 65
    assert main(["explain", str(tmp_path)]) == 78
    assert main(["explain", str(tmp_path / "no.yaml")]) == 78
