"""What a pod asks of its node: all of the machine, but for what GKE and the system's own pods need."""

from __future__ import annotations

from dataclasses import dataclass

from packtrain.plan.machines import GIB, MIB, Machine

#: What system pods (metrics, logs, GPU plugin, metadata server, DNS) request on a GPU node, generously.
SYSTEM_CPUS = 1
SYSTEM_MEMORY = 2 * GIB
#: Fits a node's usual boot disk of 100 GB, of which GKE leaves 45 GiB to pods.
SMALL_DISK = 40 * GIB

# As GKE is known to reserve, not compared with its page yet; SYSTEM_MEMORY is slack beside it.
# https://cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes#memory_and_cpu_reservations
_RESERVED = ((4 * GIB, 0.25), (8 * GIB, 0.2), (16 * GIB, 0.1), (128 * GIB, 0.06), (None, 0.02))
_EVICTION = 100 * MIB


@dataclass(frozen=True)
class Resources:
    cpus: int
    memory: int
    """Bytes; request and limit."""
    disk: int
    """Bytes of ephemeral storage."""
    shared_memory: int
    """Bytes of /dev/shm, within ``memory``."""
    gpus: int

    def requests(self) -> dict[str, str]:
        return {
            "cpu": str(self.cpus),
            "memory": gib(self.memory),
            "ephemeral-storage": gib(self.disk),
            "nvidia.com/gpu": str(self.gpus),
        }

    def limits(self) -> dict[str, str]:
        """CPUs have none: to be throttled helps nobody on a node of one's own."""
        return {"memory": gib(self.memory), "nvidia.com/gpu": str(self.gpus)}


def of_machine(machine: Machine, beside_cpus: int = 0, beside_memory: int = 0) -> Resources:
    """For the one pod that a machine runs; ``beside_``: what its sidecars request."""
    memory = allocatable_memory(machine.memory) - SYSTEM_MEMORY - beside_memory
    disk = machine.local_ssd_bytes // 2 if machine.bundled_ssds else SMALL_DISK
    return Resources(
        cpus=machine.vcpus - max(SYSTEM_CPUS, machine.vcpus // 25) - beside_cpus,
        memory=memory // GIB * GIB,
        disk=disk // GIB * GIB,
        shared_memory=max(1, min(64, memory // GIB // 8)) * GIB,
        gpus=machine.gpus,
    )


def allocatable_memory(memory: int) -> int:
    """Bytes of a machine's memory that GKE leaves to pods."""
    reserved, below = 0.0, 0
    for upto, share in _RESERVED:
        top = memory if upto is None else min(upto, memory)
        reserved += max(0, top - below) * share
        below = top
    return memory - int(reserved) - _EVICTION


def gib(size: int) -> str:
    """A Kubernetes quantity."""
    assert size % GIB == 0
    return f"{size // GIB}Gi"
