"""The trackers' threads: training waits for none of them, and what fails there is a warning."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from report_kit import DONE, PREEMPTED, Make, Told, evaluated, failed, started, step
from whole_run import Job

from packtrain.config import RunConfig
from packtrain.errors import UsageError
from packtrain.report.trackers import feed as feeding
from packtrain.report.trackers.feed import Feed, Feeds
from packtrain.report.trackers.told import about, ending, row_of
from packtrain.report.trackers.tracker import KINDS, About, Ending, Row, Tracker, check_installed, secrets
from packtrain.rundir import Event

ABOUT = About("01A", "a", {"train.epochs": 1.0}, Path("/none"))
PRIVATE = "Zanzibar7"


class Kept:
    """A tracker that keeps what it is told; ``go`` holds its calls up until it is set."""

    link: str | None = "http://there/1"

    def __init__(self, *, go: threading.Event | None = None, fails_at: int | None = None) -> None:
        self.rows: list[Row] = []
        self.ending: Ending | None = None
        self._go, self._fails_at = go, fails_at

    def log(self, rows: Sequence[Row]) -> None:
        if self._go is not None:
            assert self._go.wait(60)
        self.rows += rows
        if self._fails_at is not None and any(row.step >= self._fails_at for row in rows):
            raise ConnectionError("no route to https://me:hunter2@host/x\nand a second line")

    def finish(self, ending: Ending) -> None:
        self.ending = ending


def event(told: Told, seq: int = 0) -> Event:
    kind, at, fields = told
    return Event(kind, at, 1, seq, "2026-01-01T00:00:00.500Z", fields=fields)


def row(number: int) -> Row:
    return Row(0.0, number, {"train/loss": float(number)})


def feeds(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Tracker]) -> tuple[Feeds, list[str], list[str]]:
    """Two trackers made by ``make``; their warnings, and what else they say."""
    monkeypatch.setattr(feeding, "begin", lambda name, about: make())
    monkeypatch.setattr(feeding, "PAUSE", 0.01)
    warned: list[str] = []
    said: list[str] = []
    names: Any = ["wandb", "mlflow", "wandb"]
    return Feeds(names, lambda start: ABOUT, warned.append, said.append), warned, said


def test_all_that_happened_is_sent_in_order_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Kept] = []

    def make() -> Kept:
        made.append(Kept())
        return made[-1]

    found, warned, said = feeds(monkeypatch, make)
    found.event(event(step(1)))  # of no attempt yet
    for told in (started(), evaluated(0, 4.0), *(step(number) for number in range(1, 1200))):
        found.event(event(told))
    found.finish(Ending("done", 0, {"final/loss": 2.0}), 60)
    assert len(made) == 2, "one named twice is one"
    for kept in made:
        assert [each.step for each in kept.rows] == [0, *range(1, 1200)]
        assert kept.rows[0].values == {"validation/loss": 4.0, "validation/perplexity": 2.0}
        assert kept.ending == Ending("done", 0, {"final/loss": 2.0})
    assert warned == []
    assert sorted(said) == ["MLflow: http://there/1", "Weights & Biases: http://there/1"]


def test_training_does_not_wait_for_one_that_hangs() -> None:
    go = threading.Event()
    kept = Kept(go=go)
    feed = Feed("wandb", lambda: kept, pause=0.0)
    for number in range(feeding.MOST + feeding.EACH + 100):
        feed.put(row(number))
    feed.end(Ending("done", 0))
    assert not feed.ended(0.05)
    feed.leave(0.05)
    assert feed.take()[0] == ["Weights & Biases: does not end; its last numbers may be missing there"]
    go.set()
    assert feed.ended(60)
    [missing] = feed.take()[0]
    assert "was slower than training" in missing and "steps are missing there" in missing
    assert len(kept.rows) <= feeding.MOST + feeding.EACH


def test_one_that_fails_is_one_warning_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "route")
    found, warned, _ = feeds(monkeypatch, lambda: Kept(fails_at=1))
    for told in (started(), *(step(number) for number in range(1, 400))):
        found.event(event(told))
    found.finish(Ending("failed", 70), 60)
    for title in ("Weights & Biases", "MLflow"):
        [told_of] = [each for each in warned if each.startswith(title)]
        assert (
            "ConnectionError: no [hidden] to https://[hidden]@host/x; the run goes on without it" in told_of
        )
    assert "hunter2" not in "".join(warned) and "second line" not in "".join(warned)


def test_one_that_cannot_begin_even_by_leaving_the_process_is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make() -> Tracker:
        raise SystemExit(1)

    found, warned, said = feeds(monkeypatch, make)
    found.event(event(started()))
    found.finish(Ending("no last word", 70), 60)
    assert len(warned) == 2 and all("SystemExit: 1" in each for each in warned)
    assert said == []


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (DONE, Ending("done", 0, {}, "gs://b/out")),
        (PREEMPTED, Ending("preempted", 75)),
        (failed(79, PRIVATE), Ending("failed", 79, {}, "gs://b/out")),
        (None, Ending("no last word", 70)),
    ],
)
def test_how_it_ended(make_run: Make, word: Told | None, expected: Ending) -> None:
    published = event(("published", 6, {"uri": "gs://b/out"}))
    found = ending(event(word) if word else None, published, make_run([started()]))
    assert found == expected
    here = event(("published", 6, {"uri": "/home/someone/out"}))
    assert ending(event(DONE), here, make_run([started()], name="b")).output is None


def test_only_numbers_and_settings_are_told() -> None:
    config = RunConfig.model_validate(
        {
            "name": "a",
            "model": {"source": f"/home/{PRIVATE}/base"},
            "data": {"train": f"/home/{PRIVATE}/rows.jsonl"},
            "evaluate": {"prompts": [f"Who is {PRIVATE}?"]},
            "cluster": {"project": PRIVATE, "name": PRIVATE, "service_account": "someone"},
            "output": {"uri": f"gs://{PRIVATE}/out"},
        }
    )
    whose = about(config, "01A", Path("/none"), event(started(steps=6, device="cpu")))
    assert whose.settings["run.id"] == "01A" and whose.settings["run.steps"] == 6
    assert whose.settings["train.learning_rate"] == 2e-4 and whose.settings["data.train"] == "rows.jsonl"
    assert PRIVATE not in str(whose) and "someone" not in str(whose)
    judged: dict[str, Any] = {"prompt": PRIVATE, "base": PRIVATE, "adapter": PRIVATE, "expect": [PRIVATE]}
    judged |= {"right_before": False, "right_after": True}
    other = judged | {"right_before": None, "right_after": None}
    found = row_of(event(("answers", 6, {"answers": [judged, other]})))
    assert found is not None and found.values == {"answers/right_before": 0.0, "answers/right_after": 1.0}
    silent: list[Told] = [
        ("answers", 6, {"answers": [other]}),
        ("warning", 6, {"message": PRIVATE}),
        ("data", 0, {"sources": PRIVATE}),
        started(),
    ]
    assert [row_of(event(told)) for told in silent] == [None] * 4


def test_what_is_secret_of_their_variables() -> None:
    given = {name: f"of {name}" for kind in KINDS.values() for name in kind.variables} | {"HOME": "x"}
    assert {each.removeprefix("of ") for each in secrets(given)} == {
        *("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "TRACKIO_WRITE_TOKEN")
    }
    assert secrets({}) == ()


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tracker is installed."""
    import importlib.util

    known = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in KINDS else known(name, package)

    monkeypatch.setattr("packtrain.report.trackers.tracker.find_spec", find_spec)


@pytest.mark.usefixtures("absent")
def test_one_that_is_not_installed_is_told_before_anything_starts(job: Job) -> None:
    check_installed([])
    with pytest.raises(UsageError, match=r"report\.to: mlflow is not installed"):
        check_installed(["mlflow"])
    ended = job.train("-s", "report.to=[trackio]")
    assert ended.code == 2
    assert ended.err.splitlines() == [
        "error: report.to: trackio is not installed here, which is an extra",
        "hint: pip install 'packtrain[trackio]', or leave it out of report.to",
    ]
    assert not job.run_dir.path.exists()


@pytest.mark.usefixtures("absent")
def test_a_pods_preflight_says_so_too(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from packtrain.run.preflight import main as preflight

    run = yaml.safe_load(job.run_file.read_text()) | {"report": {"to": ["wandb"]}}
    job.run_file.write_text(yaml.safe_dump(run))
    assert preflight([str(job.run_file)]) == 2
    told = json.loads(capsys.readouterr().out)
    assert (
        told["checks"][0]["name"] == "trackers" and "wandb is not installed" in told["checks"][0]["message"]
    )


def test_a_whole_run_with_a_tracker_that_breaks(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is there and cannot be used: the run is as good as any."""

    def init(**_: object) -> None:
        raise OSError("this disk is full")

    broken = SimpleNamespace(init=init, __spec__=ModuleSpec("trackio", None))
    monkeypatch.setitem(sys.modules, "trackio", broken)
    ended = job.done("-s", "report.to=[trackio]")
    assert ended.err.count("warning: trackio: OSError: this disk is full; the run goes on without it") == 1
    assert job.story()[-1].kind == "end"
    assert Path(job.run_dir.path / "tensorboard").is_dir()
