"""A whole run as in a container: its supervisor is PID 1 of a PID namespace, and `docker stop` ends it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from supervised import alive
from whole_run import ROOT, Job, make_job, wait_until

from packtrain.run.strike import clean_environment, everything

NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
#: What ``docker stop`` waits before SIGKILL is 10 s unless said; a Spot VM's notice is 15.
GRACE = 15.0


def unshare_works() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not unshare_works(), reason="unshare: no right to a PID namespace"),
]


def container(job: Job, ranks: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "packtrain.run.supervisor", "--processes", str(ranks)]
    environment = clean_environment() | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*NAMESPACE, *command, "--", *job.arguments()],
        cwd=job.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def job_of(folder: Path, base: Path) -> Job:
    train = {"epochs": 20, "micro_batch": 1, "batch_tokens": 400}
    return make_job(folder, base, adapter={"dropout": 0.1}, train=train, checkpoint={"every": 50})


@pytest.mark.parametrize("ranks", [1, 2])
def test_nothing_is_lost_by_docker_stop(tmp_path: Path, base: Path, ranks: int) -> None:
    whole, job = job_of(tmp_path / "whole", base), job_of(tmp_path / "job", base)
    with container(whole, ranks) as process:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    with container(job, ranks) as process:
        wait_until(
            lambda: any(event.kind == "step" and event.step >= 8 for event in job.all_events()), process, 240
        )
        _, supervisor, *below = everything(process.pid)
        os.kill(supervisor, signal.SIGTERM)
        asked = time.monotonic()
        try:
            _, err = process.communicate(timeout=GRACE)
        except subprocess.TimeoutExpired:
            os.kill(supervisor, signal.SIGKILL)
            raise AssertionError(f"not done in {GRACE} s: {process.communicate()[1]}") from None
        print(f"{ranks} ranks ended {time.monotonic() - asked:.1f} s after SIGTERM")
    assert process.returncode == 75, err
    assert "what was done is saved" in err
    assert not any(map(alive, below))
    done = [event.step for event in job.story("step")]
    assert job.story("checkpoint")[-1].step == done[-1]
    with container(job, ranks) as process:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    assert job.story("start")[-1].fields["resumed_from"] == done[-1]
    assert job.losses() == whole.losses()
    assert job.weights() == whole.weights()
