"""Runs of two processes are cut off in every phase, and at a hundred random moments: nothing is ever lost.

The undisturbed run says what has to come out, to the bit. The moments are seeded; where exactly a signal
finds a process is not, so that every run of these tests tries something new around the same places.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from standins.bucket import BucketServer
from supervised import alive
from whole_run import Job, facts, make_job, write_rows

from packtrain.run.strike import (
    Moment,
    Target,
    Watched,
    clean_environment,
    everything,
    last_rank,
    moments,
    started,
    strike,
)
from packtrain.rundir import history

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SEED = 20261124
EVALUATE_EVERY = 5
#: Seconds for anything that a run does here, on a machine that is busy.
PATIENCE = 240.0
PHASES = [
    *("starting", "reading the data", "loading the base", "first step", "accumulating", "training"),
    *("evaluating", "saving", "writing the adapter", "publishing"),
]


@dataclass(frozen=True)
class Ending:
    """What has to be the same."""

    weights: str
    losses: list[float]
    evaluations: list[tuple[int, float]]
    metrics: list[float]


@dataclass(frozen=True)
class Killed:
    """A job in two processes whose output, and state, go to a bucket."""

    job: Job
    environment: Mapping[str, str]
    published: Callable[[str], bytes]
    """The content of a file where the adapter goes: one that is finished is not brought back from there."""

    def started(self) -> AbstractContextManager[Watched]:
        command = [*self.job.arguments("--processes", "2")]
        return started(command, self.job.run_dir, self.job.folder / "log", self.environment)

    def ends_well(self) -> None:
        with self.started() as run:
            code = run.process.wait(PATIENCE)
        assert code == 0, "\n".join(run.lines()[-10:])
        assert "Traceback" not in "\n".join(run.lines())

    def ending(self) -> Ending:
        """Of a finished run. Its story has every step once, in order."""
        story = history(self.job.run_dir.events_file)
        steps = [event.step for event in story if event.kind == "step"]
        assert steps == list(range(1, len(steps) + 1))
        kept = json.loads(self.published("receipt.json"))["metrics"]
        return Ending(
            hashlib.sha256(self.published("adapter_model.safetensors")).hexdigest(),
            self.job.losses(),
            [(event.step, event.fields["loss"]) for event in story if event.kind == "eval"],
            [kept["base_loss"], kept["loss"], kept["train_loss"]],
        )


def in_bucket(folder: Path, base: Path, server: BucketServer) -> Killed:
    place = "final_model"
    return make_killed(folder, base, server.uri(place), lambda name: server.data(f"{place}/{name}"))


def make_killed(folder: Path, base: Path, uri: str, published: Callable[[str], bytes]) -> Killed:
    """24 steps of four turns, three an epoch; dropout, evaluations, checkpoints and prompts."""
    job = make_job(
        folder,
        base,
        data={"validation": "held-out.jsonl", "packing": False},
        adapter={"dropout": 0.1},
        train={"epochs": 8, "batch_tokens": 560, "micro_batch": 1},
        checkpoint={"every": 4, "grace": "60s"},
        evaluate={"every": EVALUATE_EVERY, "prompts": ["Hello?"], "max_new_tokens": 8},
        output={"uri": uri},
    )
    write_rows(folder / "held-out.jsonl", facts(30, first=100))
    return Killed(job, clean_environment() | {"OMP_NUM_THREADS": "1"}, published)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Ending:
    """Undisturbed, and with its output in a folder: a bucket changes nothing."""
    folder = tmp_path_factory.mktemp("whole")
    out = folder / "out"
    undisturbed = make_killed(folder, base, str(out), lambda name: (out / name).read_bytes())
    undisturbed.ends_well()
    ending = undisturbed.ending()
    assert len(ending.losses) == 24
    return ending


def check_end(run: Watched, sent: signal.Signals, target: Target) -> None:
    code = run.process.wait(PATIENCE)
    said = "\n".join(run.lines()[-10:])
    assert "Traceback" not in said
    if sent == signal.SIGTERM and not said and code == -signal.SIGTERM:
        return  # Python itself was still starting: nothing of ours had begun
    if sent == signal.SIGTERM:
        assert code == 75, said
        assert "ended without saving" not in said, "it took longer than the grace"
    elif target == "rank":
        # A rank that is killed before there are ranks is the supervisor.
        assert code in (70, -signal.SIGKILL), said
    else:
        assert code == -signal.SIGKILL


@pytest.mark.parametrize("phase", PHASES)
def test_cut_off_in(
    phase: str, tmp_path: Path, base: Path, bucket_server: BucketServer, whole: Ending
) -> None:
    """One signal a phase; half of them go on with an empty folder, as a replacement on another machine."""
    chance = random.Random(f"{SEED} {phase}")
    sent = (signal.SIGTERM, signal.SIGKILL)[PHASES.index(phase) % 2]
    target: Target = "leader" if sent == signal.SIGTERM else chance.choice(("rank", "everything"))
    killed = in_bucket(tmp_path / "job", base, bucket_server)
    when = moments(middle=4, evaluation=EVALUATE_EVERY, step_seconds=chance.uniform(0.0, 0.2))
    with killed.started() as run:
        struck = strike(run, when[phase], sent, target, time.monotonic() + PATIENCE)
        assert struck, f"it ended with {run.process.poll()} before it could be hit"
        check_end(run, sent, target)
    if PHASES.index(phase) % 4 in (2, 3):
        shutil.rmtree(killed.job.run_dir.path)
    killed.ends_well()
    assert killed.ending() == whole
    assert killed.published("receipt.json") == killed.job.run_dir.receipt_file.read_bytes()


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_hundred_random_moments(
    tmp_path: Path, base: Path, bucket_server: BucketServer, whole: Ending
) -> None:
    """Again and again in the same run, until it comes to its end between two; then another run."""
    chance = random.Random(SEED)
    cuts = runs = 0
    least, most = 0.5, 12.0
    while cuts < 100:
        runs += 1
        bucket_server.buckets[bucket_server.bucket].clear()
        killed = in_bucket(tmp_path / f"{runs}", base, bucket_server)
        for _cut in range(12):
            sent = chance.choice((signal.SIGTERM, signal.SIGKILL))
            target: Target = "leader" if sent == signal.SIGTERM else chance.choice(("rank", "everything"))
            moment = Moment("any", lambda run: True, chance.uniform(least, most))
            elsewhere = chance.random() < 0.2
            with killed.started() as run:
                if not strike(run, moment, sent, target, time.monotonic() + PATIENCE):
                    assert run.process.wait() == 0, run.lines()[-10:]
                    break
                if run.process.wait(PATIENCE) == 0:
                    break  # it was done when the signal came
                check_end(run, sent, target)
            cuts += 1
            if elsewhere:
                shutil.rmtree(killed.job.run_dir.path, ignore_errors=True)
        killed.ends_well()
        assert killed.ending() == whole, f"run {runs}, after {cuts} cuts in all"
        shutil.rmtree(killed.job.folder)
        print(f"{cuts} cuts in {runs} runs; every run ended as the undisturbed one")


def test_the_rank_that_is_hit_is_the_last(tmp_path: Path, base: Path, bucket_server: BucketServer) -> None:
    killed = in_bucket(tmp_path / "job", base, bucket_server)
    with killed.started() as run:
        until = time.monotonic() + PATIENCE
        while not run.has("step", 1):
            assert time.monotonic() < until and run.process.poll() is None, run.lines()
            time.sleep(0.02)
        rank, all_of_it = last_rank(run.process.pid), everything(run.process.pid)
        assert rank in all_of_it
        assert all_of_it[0] == run.process.pid
        environment = Path(f"/proc/{rank}/environ").read_bytes().split(b"\0")
        assert b"RANK=1" in environment
    until = time.monotonic() + PATIENCE
    while any(map(alive, all_of_it)):
        assert time.monotonic() < until, "something is left behind"
        time.sleep(0.02)
