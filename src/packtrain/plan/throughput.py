"""How long an optimizer step takes on a machine: a roofline over the traced step, and its traffic.

The work is the traced step's; peaks are the machine's; what part of a peak is reached was taken from
throughputs that others have published, each named in ``machines.toml``. What has no source is an
assumption, and stands here as a constant with a wide interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from packtrain.plan.interval import Interval
from packtrain.plan.machines import Machine
from packtrain.plan.memory import StepProfile, Traffic, standing_bytes
from packtrain.plan.setup import Setup

#: Share of a link's rate that collectives reach.
LINK_SHARE = Interval(0.6, 0.75, 0.9)
#: Bytes a second, each way, of a GPU without NVLink: PCIe 4.0 x16 through the host's memory.
PCIE_BANDWIDTH = 16e9
#: Bytes a second of a node over plain TCP, at most: measured at about 4 GB/s between a3-megagpu-8g without
#: TCPXO (NVIDIA/aicr, after docs of GoogleCloudPlatform/container-engine-accelerators).
TCP_BANDWIDTH = 4e9
#: Bytes a second of a node's GPU network cards with TCPXO: 8 × 200 Gbit/s.
TCPXO_BANDWIDTH = 200e9
#: Seconds of a hop of a ring, in a node and between nodes. An assumption.
HOP, NODE_HOP = 3e-6, 15e-6
#: Seconds in which PyTorch can launch the kernels of a layer, forward and backward: small work is not faster.
#: An assumption.
LAUNCH = Interval(0.8e-3, 1.5e-3, 3e-3)
#: Share of the computing behind which traffic can hide, at best, as expected and at worst.
OVERLAP = (1.0, 0.9, 0.5)
#: Bytes that AdamW moves for a byte of its two moments in fp32: weight, gradient and moments read, all but
#: the gradient written.
ADAM_TRAFFIC = 28 / 8


@dataclass(frozen=True)
class Fabric:
    """The links of a set-up; bytes a second, each way."""

    in_node: float
    """Of a GPU to the others of its node."""
    between: float
    """Of a node to the others."""

    @classmethod
    def of(cls, machine: Machine, network: str = "auto") -> Fabric:
        """``network``: ``tcp`` for plain TCP whatever the machine has."""
        between = machine.network_bandwidth
        if network == "tcp" or machine.fabric == "tcp":
            between = min(between, TCP_BANDWIDTH)
        elif machine.tcpxo:
            between = min(between, TCPXO_BANDWIDTH)
        return cls(machine.nvlink_bandwidth / 2 or PCIE_BANDWIDTH, between)


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step of a run."""

    computing: Interval
    waiting: Interval
    """For other GPUs, where that is not hidden behind computing."""
    updating: Interval
    """The optimizer's own."""

    @property
    def seconds(self) -> Interval:
        return self.computing + self.waiting + self.updating


@dataclass(frozen=True)
class Load:
    """What the busiest GPU has to do in a step."""

    sequences: float
    """Packed sequences, on average."""
    micro_batches: int
    """In which it does them."""
    fill: float = 1.0
    """Tokens in a sequence over its length."""


def load_of(setup: Setup, bins_a_step: float, fill: float) -> Load:
    """A step's bins go to the GPUs in turn, as :class:`packtrain.train.loop.Trainer` does it."""
    most = math.ceil(bins_a_step / setup.gpus - 1e-9)
    micro_batches = -(-most // setup.micro_batch)
    return Load(bins_a_step / setup.gpus if setup.gpus == 1 else float(most), micro_batches, fill)


def step_time(
    setup: Setup, profile: StepProfile, machine: Machine, load: Load, network: str = "auto"
) -> StepTime:
    """Seconds of a step. ``profile`` is that of ``setup``."""
    work = profile.flops / setup.micro_batch * load.sequences * load.fill
    reached = machine.efficiency * machine.bf16_flops
    by_work = Interval(work / reached.high, work / reached.expected, work / reached.low)
    by_memory = load.micro_batches * passes(setup) * standing_weights(setup) / machine.gpu_bandwidth
    by_launch = LAUNCH * (load.micro_batches * setup.layers)
    computing = Interval(
        max(by_work.low, by_memory, by_launch.low),
        max(by_work.expected, by_memory, by_launch.expected),
        max(by_work.high, by_memory, by_launch.high),
    )
    fabric = Fabric.of(machine, network)
    each = [traffic for traffic in profile.communication if traffic.every == "micro_batch"]
    hidden = traffic_time(each, setup, fabric) * load.micro_batches
    open_ = traffic_time([t for t in profile.communication if t.every == "step"], setup, fabric)
    moments = profile.by_kind.get("optimizer", 0)
    return StepTime(
        computing=computing,
        waiting=exposed(hidden, computing) + open_,
        updating=Interval.exactly(moments * ADAM_TRAFFIC / machine.gpu_bandwidth).widened(0.5),
    )


def passes(setup: Setup) -> int:
    """How often the weights are read: forward, backward, and forward again with checkpointing."""
    return 3 if setup.checkpointing else 2


def standing_weights(setup: Setup) -> int:
    """Bytes of all weights, in what is computed in."""
    whole = standing_bytes(setup)
    return whole // 8 if setup.adapter.kind == "none" else whole


def exposed(traffic: Interval, computing: Interval) -> Interval:
    """What is left of the traffic that a step's computing does not hide."""
    best, usual, worst = OVERLAP
    expected = max(0.0, traffic.expected - usual * computing.expected)
    return Interval(
        min(expected, max(0.0, traffic.low - best * computing.low)),
        expected,
        max(expected, traffic.high - worst * computing.high),
    )


def traffic_time(all_traffic: Iterable[Traffic], setup: Setup, fabric: Fabric) -> Interval:
    """Seconds of collectives one after another, as rings.

    A ring of n moves (n-1)/n of a gathered or scattered tensor over each link, an all-reduce twice that.
    https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md
    """
    return Interval.sum(_ring(traffic, setup, fabric) for traffic in all_traffic)


def _ring(traffic: Traffic, setup: Setup, fabric: Fabric) -> Interval:
    ranks = traffic.ranks
    if ranks < 2:
        return Interval.exactly(0.0)
    rounds = 2 if traffic.kind == "all_reduce" else 1
    rate = fabric.in_node
    hops = (ranks - 1) * HOP
    if traffic.between_nodes:
        # As many rings as GPUs of a node share its network, where each has one rank in a node.
        rings = setup.gpus_per_node if ranks <= setup.nodes else 1
        rate = min(rate, fabric.between / rings)
        hops += (setup.nodes - 1) * NODE_HOP
    moved = rounds * (ranks - 1) / ranks * traffic.size / rate
    waited = rounds * traffic.calls * hops
    return Interval(
        moved / LINK_SHARE.high + waited,
        moved / LINK_SHARE.expected + waited,
        moved / LINK_SHARE.low + waited,
    )
