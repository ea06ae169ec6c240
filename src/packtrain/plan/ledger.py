"""Counts what PyTorch allocates while code runs on tensors without content.

Every new storage is an entry of a ledger, and so is its end; a storage that views share counts once.
When all is over the ledger knows the most that stood at once in each phase, and what it was made of.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

#: PyTorch's CUDA allocator hands out multiples of this (`kMinBlockSize`, c10/cuda/CUDACachingAllocator.cpp).
CUDA_BLOCK = 512

#: Operators that take as much as their input again inside of themselves, where no dispatcher sees it
#: (`logsumexp_out_impl`, aten/src/ATen/native/ReduceOps.cpp: the exponentials before they are summed).
INSIDE = {torch.ops.aten.logsumexp}


@dataclass
class Entry:
    """One storage, from its allocation to its end."""

    size: int
    kind: str


@dataclass(frozen=True)
class Peak:
    """The most that stood at once in a phase."""

    total: int
    by_kind: dict[str, int]


@dataclass
class Ledger(TorchDispatchMode):
    """Entered around the code to be counted. ``block``: what sizes are rounded up to."""

    block: int = 1
    phase: str = "before"
    """What is going on; whoever runs the code says so."""
    kind: str = "activations"
    """What a new storage is, unless :meth:`name` says so later."""
    flops: float = 0.0
    calls: list[tuple[str, str, Any, int]] = field(default_factory=list)
    """(phase, name, process group's name, bytes) of each collective."""
    _log: list[tuple[str, Entry, int]] = field(default_factory=list)
    _entries: dict[int, tuple[weakref.ref[Any], Entry]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # half of all calls ask for it
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        counted = _formula(func._overloadpacket)
        if counted is not None:
            self.flops += counted(*args, **kwargs, out_val=out)
        if func._overloadpacket in INSIDE:
            self._momentary(sum(map(_bytes, args)))
        if func.namespace in ("c10d", "_c10d_functional"):
            self._collective(func, args)
        self.see(tree_leaves(out), gathered=func.namespace in ("fsdp", "c10d"))
        return out

    def see(self, values: Iterable[Any], *, gathered: bool = False) -> None:
        """Enter the storages of tensors that are not in the ledger yet."""
        for value in values:
            if isinstance(value, torch.Tensor):
                for storage in storages(value):
                    if storage._cdata not in self._entries:
                        self._enter(storage, "all_gather" if gathered else self.kind)

    def _enter(self, storage: torch.UntypedStorage, kind: str) -> None:
        key, entry = storage._cdata, Entry(0, kind)
        self._entries[key] = (weakref.ref(storage, lambda _: self._end(key)), entry)
        self._set(entry, storage.nbytes())

    def _end(self, key: int) -> None:
        _, entry = self._entries.pop(key)
        self._set(entry, 0)

    def _set(self, entry: Entry, size: int) -> None:
        size = -(-size // self.block) * self.block
        if size != entry.size:
            self._log.append((self.phase, entry, size - entry.size))
            entry.size = size

    def _momentary(self, size: int) -> None:
        """What an operator takes inside itself and gives back at its end."""
        entry = Entry(0, self.kind)
        self._set(entry, size)
        self._set(entry, 0)

    def name(self, kind: str, tensors: Iterable[torch.Tensor | None]) -> None:
        """Say of storages that stand what they are; it holds for all of their life."""
        for tensor in tensors:
            for storage in () if tensor is None else storages(tensor):
                found = self._entries.get(storage._cdata)
                if found is not None:
                    found[1].kind = kind

    def add_flops(self, flops: float) -> None:
        """Of a kernel that no operator of PyTorch stands for."""
        self.flops += flops

    def enter_phase(self, phase: str) -> None:
        self.phase = phase
        self._log.append((phase, Entry(0, self.kind), 0))

    @contextmanager
    def resizing(self) -> Iterator[None]:
        """Count what is resized past the dispatcher, as FSDP2 does with gathered parameters."""
        resize: Callable[..., Any] = torch.UntypedStorage.resize_

        def counted(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            found = self._entries.get(storage._cdata)
            if found is None:
                self._enter(storage, "all_gather")
            else:
                found[1].kind = "all_gather"
                self._set(found[1], size)
            return result

        torch.UntypedStorage.resize_ = counted  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]

    def _collective(self, func: Any, args: tuple[Any, ...]) -> None:
        """The bytes of the whole tensor: of what is gathered, and of what is to be scattered."""
        size = max((sum(_bytes(leaf) for leaf in tree_leaves(arg)) for arg in args), default=0)
        group = next((leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.ScriptObject)), None)
        self.calls.append((self.phase, func._overloadpacket.__name__, group, size))

    def peaks(self) -> dict[str, Peak]:
        """By phase, in the order in which they came first."""
        standing: dict[str, int] = {}
        most: dict[str, Peak] = {}
        total = 0
        for phase, entry, change in self._log:
            standing[entry.kind] = standing.get(entry.kind, 0) + change
            total += change
            if phase not in most or total > most[phase].total:
                most[phase] = Peak(total, dict(standing))
        return most

    def standing(self) -> int:
        """Bytes that are allocated now."""
        return sum(entry.size for _, entry in self._entries.values())


@functools.cache
def _formula(operator: Any) -> Callable[..., float] | None:
    """PyTorch's formula for the operator's work; what writes into its input does the same work."""
    own = getattr(torch.ops.aten, operator.__name__.removesuffix("_"), None)
    formula: Callable[..., float] | None = flop_registry.get(operator) or flop_registry.get(own)
    return formula


def storages(tensor: torch.Tensor) -> list[torch.UntypedStorage]:
    """Of a plain tensor its own; of a sharded one that of its shard."""
    if isinstance(tensor, DTensor):
        return storages(tensor._local_tensor)
    return [tensor.untyped_storage()]


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0
