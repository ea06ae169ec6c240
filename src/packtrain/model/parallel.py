"""Several processes that train one model: who they are, what they agree on, how the model is spread.

Each rank does the forward and backward passes of its own bins. The loss of a bin is a sum, so the
gradient of the whole batch is the plain sum over ranks, in whatever way the bins fell to them.
Where the base fits on every device it stands on all of them and the adapter's gradients are summed
("data"); else FSDP2 shards each decoder layer, base and adapter in one group ("fsdp"), and over
several nodes the shards stay within a node (HSDP).
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from packtrain.errors import UnavailableError, UsageError
from packtrain.own import is_own_process

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")
Mode = Literal["data", "fsdp"]

CPU = torch.device("cpu")
#: Seconds after which a peer that does not answer is taken for lost; ``PACKTRAIN_TIMEOUT`` has another.
TIMEOUT = 600.0
#: Seconds between two looks whether the first ranks of all nodes are done.
LOOK = 0.1
#: Numbers the calls of :meth:`World.main_first`; all ranks make the same ones.
_TURNS = itertools.count()
#: Seconds for the ranks that are left to say so.
ROLL_CALL = 3.0
#: Share of a device's memory that the base, or all of a full fine-tuning, may take and still stand on
#: every device.
WHOLE_SHARE = 0.5
#: What an error of the transport names.
_TRANSPORTS = ("gloo", "NCCL")
#: Bytes of gradients that are summed in one message.
MESSAGE = 256 << 20


@dataclass(frozen=True)
class World:
    """The processes of a run. Made by torchrun's environment, or a single one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = CPU
    control: Any = None
    """A gloo group for flags and small objects: it never waits for a GPU."""

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and events."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set on any rank; the same answer on all of them."""
        if self.size == 1:
            return flag
        value = torch.tensor([int(flag)])
        with self.peers("agreeing on a stop"):
            dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self.control)
        return bool(value.item())

    def sum(self, tensor: Tensor) -> Tensor:
        """``tensor`` summed over the ranks, in place."""
        if self.size > 1:
            with self.peers("adding up"):
                dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Each parameter's gradient becomes the sum over the ranks, in messages of some :data:`MESSAGE`.

        A rank without a gradient (it had no bin) adds zeros, so that none is ever left out.
        """
        if self.size == 1:
            return
        pending: list[nn.Parameter] = []
        size = 0
        for parameter in parameters:
            pending.append(parameter)
            size += parameter.numel()
            if size * 4 >= MESSAGE:
                self._sum_together(pending)
                pending, size = [], 0
        self._sum_together(pending)

    def _sum_together(self, parameters: list[nn.Parameter]) -> None:
        if not parameters:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        self.sum(flat)
        sizes = [grad.numel() for grad in grads]
        for parameter, grad, part in zip(parameters, grads, flat.split(sizes), strict=True):
            parameter.grad = part.view_as(grad)

    def broadcast(self, value: T) -> T:
        """Rank 0's ``value``, on every rank (pickled: plain data)."""
        if self.size == 1:
            return value
        box = [value]
        with self.peers("hearing from rank 0"):
            dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's ``value``, by rank, on every rank."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        with self.peers("gathering"):
            dist.all_gather_object(box, value, group=self.control)
        return box

    def main_first(self, work: Callable[[], T]) -> T:
        """``work`` on the first rank of each node, then on the others, which find its files in caches.

        It may take longer than peers are waited for elsewhere: a base is fetched here. An error on a
        first rank is raised there; the others report a lost peer.
        """
        if self.local_size == 1:
            return work()
        turn, store = next(_TURNS), dist.distributed_c10d._get_default_store()
        firsts = [f"packtrain/first/{turn}/{rank}" for rank in range(0, self.size, self.local_size)]
        done: list[T] = []
        if self.local_rank == 0:
            try:
                done.append(work())
            finally:
                store.set(f"packtrain/first/{turn}/{self.rank}", "done" if done else "failed")
        try:
            while not store.check(firsts):
                time.sleep(LOOK)
            lost = any(store.get(key) != b"done" for key in firsts)
        except RuntimeError:
            lost = True  # the store went with it
        if lost:
            raise UnavailableError(f"rank {self.rank} lost a rank that prepares its node")
        return done[0] if done else work()

    def barrier(self) -> None:
        if self.size > 1:
            with self.peers("waiting"):
                dist.barrier(group=self.control)

    def missing(self) -> str:
        """Which ranks are gone: those that do not say in the store, within seconds, that they live.

        (The transport knows only an address; and when one rank dies, all others notice.)
        """
        store = dist.distributed_c10d._get_default_store()
        store.set_timeout(timedelta(seconds=ROLL_CALL))
        waited_until = time.monotonic() + ROLL_CALL
        silent = list(range(self.size))
        try:
            store.set(f"packtrain/lives/{self.rank}", "yes")
            while silent and time.monotonic() < waited_until:
                silent = [rank for rank in silent if not store.check([f"packtrain/lives/{rank}"])]
                time.sleep(0.05)
        except RuntimeError:
            return "rank 0"  # the store went with it
        return f"rank {', '.join(map(str, silent))}" if silent else "the connection to its peers"

    @contextmanager
    def peers(self, doing: str) -> Iterator[None]:
        """A lost peer is one sentence and exit code 69, not a stack trace of the transport."""
        try:
            yield
        except RuntimeError as error:
            raise self._lost(doing, error) from error

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The same around work in which FSDP2 talks to the peers by itself; other errors stay as they are."""
        try:
            yield
        except RuntimeError as error:
            told = isinstance(error, dist.DistError) or any(name in str(error) for name in _TRANSPORTS)
            if self.size == 1 or not told:
                raise
            raise self._lost("computing", error) from error

    def _lost(self, doing: str, error: RuntimeError) -> UnavailableError:
        return UnavailableError(
            f"rank {self.rank} lost {self.missing()} while {doing}: {str(error).splitlines()[0][:200]}",
            hint="the same command goes on from the last checkpoint",
        )


@contextmanager
def joined() -> Iterator[World]:
    """The world that torchrun's environment describes, left at the end; a single process without it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World(device=device)
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if device.type == "cuda":
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=peer_timeout(os.environ.get("PACKTRAIN_TIMEOUT")))
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
        control = dist.new_group(backend="gloo", timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise UnavailableError(f"the processes did not find each other: {error}") from error
    try:
        yield World(
            dist.get_rank(),
            dist.get_world_size(),
            local_rank,
            int(os.environ["LOCAL_WORLD_SIZE"]),
            device,
            control,
        )
    finally:
        # A process of ours ends now, and its connections with it: taking gloo down joins threads that may
        # wait for the interpreter, which this one holds. NCCL asks for it.
        if device.type == "cuda" or not is_own_process():
            dist.destroy_process_group()


def peer_timeout(text: str | None) -> float:
    try:
        seconds = TIMEOUT if text is None else float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise UsageError(f"PACKTRAIN_TIMEOUT is {text!r}, which is no number of seconds")
    return seconds


def choose_mode(world: World, standing: int, wanted: Literal["auto", "data", "fsdp"]) -> Mode:
    """How to spread what takes ``standing`` bytes: whole on every device where that leaves room to train."""
    if world.size == 1:
        return "data"
    if wanted != "auto":
        return wanted
    if world.device.type == "cpu":
        return "data"
    memory = torch.cuda.get_device_properties(world.device).total_memory
    return "data" if standing < WHOLE_SHARE * memory else "fsdp"


def mesh_of(world: World) -> DeviceMesh:
    """Which ranks hold shards of the same copy: all of them, or over several nodes those of each."""
    from torch.distributed.device_mesh import init_device_mesh

    nodes = world.size // world.local_size
    if nodes > 1 and world.local_size > 1:
        return init_device_mesh(
            world.device.type, (nodes, world.local_size), mesh_dim_names=("replicate", "shard")
        )
    return init_device_mesh(world.device.type, (world.size,))


def shard(
    loss: nn.Module, layers: Iterable[nn.Module], mesh: DeviceMesh, compute: torch.dtype | None = None
) -> None:
    """FSDP2 on ``loss`` (the module around backbone and head): a group a decoder layer, one for the rest.

    ``compute``: what parameters in fp32 are gathered and computed in; their gradients are summed in fp32.
    Gradients come out summed over the ranks, not averaged. https://arxiv.org/abs/2304.11277 and
    `torch.distributed.fsdp.fully_shard`; frozen and trainable parameters, of different types, share
    a group.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy()
    if compute is not None:
        policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(loss, mesh=mesh, mp_policy=policy)
    for module in loss.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


@contextmanager
def resharded(loss: nn.Module) -> Iterator[None]:
    """Afterwards only shards are left, also of what FSDP2 keeps whole after a forward without a backward."""
    try:
        yield
    finally:
        reshard = getattr(loss, "reshard", None)
        if reshard is not None:
            reshard()


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered on every rank (all of them must ask); a plain one as it is."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def put(tensor: Tensor, value: Tensor) -> None:
    """Copy the whole ``value``, which every rank has, into a tensor that may be sharded."""
    mesh = getattr(tensor, "device_mesh", None)
    if mesh is None:
        tensor.copy_(value)
        return
    from torch.distributed.tensor import distribute_tensor

    placements = tensor.placements  # type: ignore[attr-defined]
    tensor.copy_(distribute_tensor(value.to(tensor.device), mesh, placements, src_data_rank=None))


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; a plain one as it is."""
    part = getattr(tensor, "to_local", None)
    return tensor if part is None else part()


def receive(tensor: Tensor, value: Tensor | None, world: World) -> None:
    """Copy rank 0's whole ``value`` into a tensor of every rank, which may be sharded. All must call.

    On the other ranks ``value`` is None, and one tensor at a time is made room for.
    """
    if value is None:
        value = torch.empty(tensor.shape, dtype=tensor.dtype)
    value = value.to(tensor.device, tensor.dtype)
    mesh = getattr(tensor, "device_mesh", None)
    with world.peers("getting the state from rank 0"):
        if mesh is not None:
            from torch.distributed.tensor import distribute_tensor

            placements = tensor.placements  # type: ignore[attr-defined]
            value = distribute_tensor(value, mesh, placements, src_data_rank=0)
        elif world.size > 1:
            value = value.contiguous()
            dist.broadcast(value, src=0)
    tensor.copy_(value)
