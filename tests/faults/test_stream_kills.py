"""Runs whose data is streamed are killed in the midst of a window, at its border and over an epoch's end.

What comes out is compared to the bit with the run that nobody touched, in one process and in two.
"""

from __future__ import annotations

import random
import signal
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from whole_run import Job, facts, make_job

from packtrain.run.resume_proof import Story, read_story
from packtrain.run.strike import Moment, Watched, clean_environment, started, strike

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SEED = 20261201
PATIENCE = 240.0
STEPS = 20


@dataclass(frozen=True)
class Run:
    job: Job
    processes: int

    def started(self) -> AbstractContextManager[Watched]:
        arguments = self.job.arguments("--processes", str(self.processes))
        environment = clean_environment() | {"OMP_NUM_THREADS": "1"}
        return started(arguments, self.job.run_dir, self.job.folder / "log", environment)

    def ends_well(self) -> Story:
        with self.started() as run:
            code = run.process.wait(PATIENCE)
        assert code == 0, "\n".join(run.lines()[-10:])
        story, wrong = read_story(self.job.run_dir)
        assert not wrong
        return story

    @property
    def epochs(self) -> list[float]:
        return [event.fields["epoch"] for event in self.job.story("step")]

    @property
    def windows(self) -> list[int]:
        """Steps after which another window begins: where the epochs that are told grow by another amount."""
        told = [0.0, *self.epochs]
        grown = [round(after - before, 3) for before, after in pairwise(told)]
        return [step for step in range(1, len(grown)) if abs(grown[step] - grown[step - 1]) > 0.002]


def make(folder: Path, base: Path, processes: int) -> Run:
    """Twenty steps in four windows and more, over two epochs of three files; dropout, and evaluations."""
    job = make_job(
        folder,
        base,
        data={"streaming": True, "train": "parts", "validation": 0.03},
        adapter={"dropout": 0.1},
        train={"max_steps": STEPS, "batch_tokens": 1024, "micro_batch": 1},
        checkpoint={"every": 1, "grace": "60s"},
        evaluate={"every": 6},
    )
    job.run_file.write_text(job.run_file.read_text().replace("  epochs: 3\n", ""))
    parts = folder / "parts"
    parts.mkdir()
    (folder / "train.jsonl").unlink()
    for part in range(3):
        made = make_job(folder / "rows", base, rows=facts(70, first=70 * part))
        (made.folder / "train.jsonl").rename(parts / f"{part}.jsonl")
    return Run(job, processes)


@pytest.fixture(scope="module", params=[1, 2])
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, base: Path
) -> tuple[Run, Story]:
    run = make(tmp_path_factory.mktemp("whole") / "job", base, request.param)
    story = run.ends_well()
    assert len(story.losses) == STEPS
    assert run.epochs[-1] > 1.0, "it goes over an epoch's end"
    assert len(run.windows) >= 2
    return run, story


def test_killed_again_and_again_it_ends_the_same(
    whole: tuple[Run, Story], tmp_path: Path, base: Path
) -> None:
    undisturbed, story = whole
    border = undisturbed.windows[0]
    over = next(step for step, epoch in enumerate(undisturbed.epochs, 1) if epoch > 1.0)
    chance = random.Random(f"{SEED} {undisturbed.processes}")
    steps = sorted({border, over, chance.randrange(over + 1, STEPS)})
    if undisturbed.processes > 1:
        steps = steps[:2]
    run = make(tmp_path / "job", base, undisturbed.processes)
    for turn, step in enumerate(steps):
        sent = (signal.SIGKILL, signal.SIGTERM)[turn % 2]
        reached = Moment(f"step {step}", lambda watched, step=step: watched.has("step", step))  # type: ignore[misc]
        with run.started() as watched:
            target = "everything" if sent == signal.SIGKILL else "leader"
            strike(watched, reached, sent, target, time.monotonic() + PATIENCE)  # type: ignore[arg-type]
            code = watched.process.wait(PATIENCE)
        said = "\n".join(watched.lines()[-10:])
        assert "Traceback" not in said
        assert code in ((75, 0) if sent == signal.SIGTERM else (-signal.SIGKILL, 0)), said
    assert run.ends_well() == story
    resumed = [event.fields.get("resumed_from") for event in run.job.all_events() if event.kind == "start"]
    assert sum(bool(each) for each in resumed) >= 1
    assert run.job.receipt()["data"]["train"] == undisturbed.job.receipt()["data"]["train"]
