"""The rate at which a machine multiplies matrices: what a run's speed is a share of.

Of a GPU its data sheet's dense bfloat16, the number that others divide by, too; of a CPU, which has no such
sheet, what one large product reached here.
"""

from __future__ import annotations

import re
import time

from packtrain.plan.machines import machines

#: Seconds for which a CPU is tried.
SECONDS = 0.5


def gpu_peak(name: str) -> float | None:
    """Operations a second of the GPU that its driver calls ``name``; None for one that is not known.

    Variants on a PCIe card are slower than those of the machines here, which are meant; the A100 is not.
    """
    words = set(re.split(r"[\s-]+", name.upper()))
    if "MIG" in words or ({"PCIE", "NVL"} & words and "A100" not in words):
        return None
    models = {machine.gpu_name.upper().split()[1]: machine.bf16_flops for machine in machines().values()}
    return next((flops for model, flops in models.items() if model in words), None)


def matmul_rate(tokens: int, hidden: int, inner: int, dtype: str) -> float:
    """Operations a second of [tokens, hidden] times [hidden, inner] on this CPU, at its best."""
    import torch

    from packtrain.model.linears import times

    kind = getattr(torch, dtype)
    x, weight = torch.randn(tokens, hidden).to(kind), torch.randn(inner, hidden).to(kind)
    began, best = time.perf_counter(), float("inf")
    with torch.no_grad():
        while time.perf_counter() - began < SECONDS or best == float("inf"):
            started = time.perf_counter()
            times(x, weight)
            best = min(best, time.perf_counter() - started)
    return 2.0 * tokens * hidden * inner / best
