"""Which machines a plan is for, from the run file's cluster and the plan's keys."""

from __future__ import annotations

from typing import Any

import pytest

from packtrain.config import ClusterConfig
from packtrain.errors import ConfigError
from packtrain.plan.options import PlanKeys
from packtrain.plan.target import Target, target_of


def told(cluster: ClusterConfig | None = None, **keys: Any) -> tuple[str | None, int, int, int]:
    found = target_of(cluster or ClusterConfig(), PlanKeys.model_validate(keys))
    name = found.machine.name if found.machine else None
    return name, found.nodes, found.gpus, found.gpus_per_node


def test_without_keys_it_is_the_run_files_cluster() -> None:
    assert told() == ("a3-megagpu-8g", 1, 8, 8)
    assert told(ClusterConfig(nodes=4)) == ("a3-megagpu-8g", 4, 32, 8)
    assert told(ClusterConfig(machine="g2-standard-4")) == ("g2-standard-4", 1, 1, 1)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"gpus": 1}, ("a3-megagpu-8g", 1, 1, 1)),
        ({"gpus": 1024}, ("a3-megagpu-8g", 128, 1024, 8)),
        ({"gpu": "l4"}, ("g2-standard-8", 1, 1, 1)),
        ({"gpu": "nvidia-l4", "gpus": 3}, ("g2-standard-48", 1, 3, 3)),
        ({"gpu": "h100", "gpus": 2}, ("a3-highgpu-2g", 1, 2, 2)),
        ({"gpu": "h100", "gpus": 64}, ("a3-highgpu-8g", 8, 64, 8)),
        ({"gpu": "a100-80gb", "gpus": 4}, ("a2-ultragpu-4g", 1, 4, 4)),
        ({"gpu": "a2-highgpu-8g"}, ("a2-highgpu-8g", 1, 8, 8)),
        ({"gpu": "cpu"}, (None, 1, 1, 1)),
    ],
)
def test_keys_name_a_machine_a_gpu_or_this_machine(keys: dict[str, Any], expected: object) -> None:
    assert told(**keys) == expected


def test_gpus_that_are_no_whole_machines_are_refused() -> None:
    with pytest.raises(ConfigError, match="12 GPUs are no whole number of a3-megagpu-8g"):
        told(gpus=12)


def test_an_unknown_name_comes_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"plan\.gpu: a100-80g is no .* did you mean a100-80gb\?") as caught:
        told(gpu="a100-80g")
    assert "a3-megagpu-8g" in str(caught.value.hint)
    with pytest.raises(ConfigError, match=r"cluster\.machine: a3-mega is no machine type that"):
        told(ClusterConfig(machine="a3-mega"))


def test_this_machines_memory_is_shared_by_its_processes() -> None:
    assert Target(None, 2).memory * 2 <= Target(None, 1).memory
    assert Target(None, 1).memory > 1 << 28
