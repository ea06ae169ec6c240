"""Peaks by the names that NVIDIA's drivers give, and the rate of this CPU."""

from __future__ import annotations

import pytest

from packtrain.plan import peak
from packtrain.plan.peak import gpu_peak, matmul_rate


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA L4", 121e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA L40S", None),
        ("NVIDIA GeForce RTX 4090", None),
        ("NVIDIA GH200 480GB", None),
        ("", None),
    ],
)
def test_the_drivers_name_tells_the_peak_or_nothing_does(name: str, expected: float | None) -> None:
    assert gpu_peak(name) == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_this_cpu_multiplies(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "SECONDS", 0.05)
    assert 1e7 < matmul_rate(64, 128, 256, dtype) < 1e14
