"""Every kind of adapter in two processes, the base whole on both or sharded: the same training as in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from whole_run import Job, base, make_job

__all__ = ["base"]
pytestmark = pytest.mark.slow

KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dora with whole modules": (
        {"kind": "dora", "rslora": True, "dropout": 0.1, "modules_to_save": ["embed_tokens", "lm_head"]},
        {"parallel": "fsdp"},
    ),
    "qlora": ({"kind": "qlora"}, {}),
}


def trained(job: Job) -> dict[str, torch.Tensor]:
    return dict(load_file(job.run_dir.adapter / "adapter_model.safetensors"))


@pytest.mark.parametrize("name", KINDS)
def test_two_processes(tmp_path: Path, base: Path, name: str) -> None:
    adapter, train = KINDS[name]
    if adapter["kind"] == "qlora":
        pytest.importorskip("bitsandbytes")
    small = {"micro_batch": 1, "epochs": 1, "batch_tokens": 400} | train
    jobs = [
        make_job(tmp_path / folder, base, adapter=adapter, train=small, data={"max_length": 128})
        for folder in ("one", "two")
    ]
    jobs[0].done()
    with jobs[1].process("--processes", "2", environment={"OMP_NUM_THREADS": "1"}) as process:
        _, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
    assert jobs[1].story("start")[0].fields["processes"] == 2
    for mine, other in zip(jobs[1].losses(), jobs[0].losses(), strict=True):
        assert mine == pytest.approx(other, rel=1e-4)
    one, two = map(trained, jobs)
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        assert float((two[key] - tensor).norm()) <= 2e-2 * float(tensor.norm()), key
