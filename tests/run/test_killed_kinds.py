"""Each kind of training killed in the middle, as a process, and gone on with: the same to the bit.

``packtrain verify-resume`` does this in every phase; here it is done once for each kind of what is trained.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tiny import make_tiny_base
from whole_run import Job, make_job

from packtrain.run.resume_proof import TRIES, read_story
from packtrain.run.strike import clean_environment, moments, started, strike

KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qlora": ({"kind": "qlora", "dropout": 0.1}, {"dtype": "bfloat16"}),
    "dora": ({"kind": "dora", "dropout": 0.1}, {}),
    "rslora and loraplus": ({"rslora": True, "loraplus_lr_ratio": 16.0, "dropout": 0.1}, {}),
    "whole modules": ({"modules_to_save": ["embed_tokens", "lm_head"]}, {"dtype": "bfloat16"}),
    "full": ({"kind": "none", "rank": 16}, {"dtype": "bfloat16"}),
}
STEPS, KILLED_AFTER = 24, 9


@pytest.fixture(scope="module")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base"), tied=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_killed_and_gone_on_with(
    tmp_path: Path, small_base: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, model = KINDS[name]
    if adapter.get("kind") == "qlora":
        pytest.importorskip("bitsandbytes", reason="needs the extra qlora")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "src"))
    rate = 1e-4 if adapter.get("kind") == "none" else 3e-3
    sections: dict[str, Any] = {
        "adapter": adapter,
        "model": model,
        "train": {"epochs": STEPS, "max_steps": STEPS, "learning_rate": rate},
        "evaluate": {"every": 6},
    }
    undisturbed = make_job(tmp_path / "undisturbed", small_base, **sections)
    undisturbed.done()
    for attempt in range(TRIES):
        job = make_job(tmp_path / f"killed-{attempt}", small_base, **sections)
        if was_killed(job):
            break
    starts = job.story("start")
    assert [event.fields["resumed_from"] for event in starts] == [None]
    job.done()
    resumed_from = job.story("start")[-1].fields["resumed_from"]
    assert KILLED_AFTER - 3 <= resumed_from < STEPS
    (whole, wrong), (story, wrong_too) = read_story(undisturbed.run_dir), read_story(job.run_dir)
    assert wrong == wrong_too == []
    assert whole.differences(story) == []
    assert len(whole.losses) == STEPS and len(whole.evaluations) == 5


def was_killed(job: Job) -> bool:
    """Whether the run was in its middle when it was killed; a run that ended before is too fast."""
    until = time.monotonic() + 120
    moment = moments(middle=KILLED_AFTER - 1, evaluation=None, steps=STEPS)["training"]
    with started(job.arguments(), job.run_dir, job.folder / "log", clean_environment()) as run:
        return strike(run, moment, signal.SIGKILL, "everything", until)
