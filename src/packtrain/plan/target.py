"""Where a run is planned for: how many GPUs, of which machines; or this machine's CPU."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass

from packtrain.config import ClusterConfig
from packtrain.errors import ConfigError
from packtrain.plan.machines import Machine, machines
from packtrain.plan.options import PlanKeys

CPU = "cpu"


@dataclass(frozen=True)
class Target:
    machine: Machine | None
    """None: this machine, on its CPU."""
    gpus: int
    """In all; on CPU: processes."""

    @property
    def nodes(self) -> int:
        return 1 if self.machine is None else -(-self.gpus // self.machine.gpus)

    @property
    def gpus_per_node(self) -> int:
        return self.gpus if self.machine is None else min(self.gpus, self.machine.gpus)

    @property
    def memory(self) -> int:
        """Bytes that a device has."""
        return _memory_here() // self.gpus if self.machine is None else self.machine.gpu_memory

    @property
    def name(self) -> str:
        """Such as ``2 × a3-megagpu-8g (16 × NVIDIA H100 80GB)``."""
        if self.machine is None:
            return "this machine's CPU"
        return f"{self.nodes} × {self.machine.name} ({self.gpus} × {self.machine.gpu_name})"


def target_of(cluster: ClusterConfig, keys: PlanKeys) -> Target:
    """The run file's cluster, or what the keys say. Errors: :class:`ConfigError`."""
    if keys.gpu == CPU:
        return Target(None, keys.gpus or 1)
    if keys.gpu is None:
        chosen = _named(cluster.machine, "cluster.machine")
    else:
        chosen = _with_gpu(keys.gpu, keys.gpus or 1) or _named(keys.gpu, "plan.gpu")
    gpus = keys.gpus or cluster.nodes * chosen.gpus
    if gpus > chosen.gpus and gpus % chosen.gpus:
        raise ConfigError(
            f"plan.gpus: {gpus} GPUs are no whole number of {chosen.name}, which have {chosen.gpus} each"
        )
    return Target(chosen, gpus)


def _named(name: str, key: str) -> Machine:
    found = machines().get(name)
    if found is not None:
        return found
    names = [*machines(), *dict.fromkeys(each.gpu for each in machines().values()), CPU]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    raise ConfigError(
        f"{key}: {name} is no machine type{' or GPU' if key == 'plan.gpu' else ''} that packtrain knows"
        + (f"; did you mean {near[0]}?" if near else ""),
        hint=f"known are {', '.join(names)}; docs/plan.md says how to add one",
    )


def _with_gpu(gpu: str, count: int) -> Machine | None:
    """The smallest machine with ``count`` of them, or the largest that there is.

    Its own memory holds what its GPUs' does, since weights go through it.
    """
    having = [each for each in machines().values() if gpu in (each.gpu, each.accelerator)]
    roomy = [each for each in having if each.memory >= each.gpus * each.gpu_memory] or having
    if not roomy:
        return None
    sizes = sorted({each.gpus for each in roomy})
    wanted = next((size for size in sizes if size >= count), sizes[-1])
    return next(each for each in roomy if each.gpus == wanted)


def _memory_here() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
