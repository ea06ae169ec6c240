"""Two processes on a mixture with weighted rows train what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mixed import mixed_job
from whole_run import Job, base

__all__ = ["base"]
pytestmark = pytest.mark.slow


def run(job: Job, *options: str) -> None:
    command = [sys.executable, "-m", "packtrain.cli.main", "train", "run.yaml", "--run-dir", "run", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PACKTRAIN_LINGER": "0"}
    ended = subprocess.run(
        command, cwd=job.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_two_processes_train_what_one_does(tmp_path: Path, base: Path) -> None:
    alone, job = (mixed_job(tmp_path / name, base, max_steps=5) for name in ("one", "two"))
    alone.done()
    run(job, "--processes", "2")
    assert job.story("start")[0].fields["processes"] == 2
    assert job.losses() == pytest.approx(alone.losses(), rel=1e-5)
    for name in ("loss", "base_loss"):
        assert job.receipt()["metrics"][name] == pytest.approx(alone.receipt()["metrics"][name], rel=1e-5)
