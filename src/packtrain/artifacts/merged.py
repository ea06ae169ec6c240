"""The weights of a base with an adapter merged into them: made as they are asked for, some rows at a time.

Nothing here holds more than one layer's weight. In float32, and rounded once, to the type that the base
has in its files.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from packtrain.artifacts.deltas import Deltas
from packtrain.errors import ConfigError
from packtrain.model.shards import Stored

#: Numbers of a weight that are worked on at once: 64 MB of float32.
BLOCK = 16 * 2**20


class Weights(Protocol):
    """Tensors by the names that they have in a model's files."""

    tensors: dict[str, Stored]

    def read(self, name: str, first: int = 0, last: int | None = None) -> Tensor: ...

    def rows(self, name: str, indices: Sequence[int]) -> Tensor: ...


@dataclass(frozen=True)
class Layout:
    """What the base's architecture says of its weights."""

    embedding: str
    """Module path of the input embeddings."""
    head: str | None
    """Module path of the output head."""
    tied: bool
    """The head is the embeddings' transpose."""
    linear: frozenset[str]
    """Module paths of all linear layers but the head."""
    prefix: str
    """Of the paths within the model without its head, such as ``model``."""

    def stored(self, parameter: str, names: Container[str]) -> str | None:
        """The name that a parameter has in the files, None where it is not in them.

        Some models' files leave out the path's first part, or have one more.
        """
        ahead = f"{self.prefix}."
        for name in (parameter, parameter.removeprefix(ahead), ahead + parameter):
            if name in names:
                return name
        if self.tied and self.head and parameter == f"{self.head}.weight":
            return self.stored(f"{self.embedding}.weight", names)
        return None


@dataclass
class Merged:
    """A base's tensors, as :class:`Weights`, with an adapter in them."""

    base: Weights
    deltas: Deltas
    layout: Layout
    as_trained: Callable[[str, Tensor], Tensor] | None = None
    """Of a quantised base: a stored name and its weight -> the numbers that the training computed with."""
    tensors: dict[str, Stored] = field(init=False)
    untied: str | None = field(init=False, default=None)
    """The name of a head that was tied to the embeddings, and is a tensor of its own now."""
    _modules: dict[str, str] = field(init=False, default_factory=dict)
    _whole: tuple[str, Tensor] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.tensors = dict(self.base.tensors)
        self._untie()
        for parameter in (*(f"{module}.weight" for module in self.deltas.updates), *self.deltas.replaced):
            name = self._name(parameter)
            module = parameter.rpartition(".")[0]
            stored = self.tensors[name]
            if parameter in self.deltas.replaced:
                shape = self.deltas.shards.tensors[self.deltas.replaced[parameter]].shape
                fits = shape == stored.shape
            else:
                update = self.deltas.updates[module]
                a, b = (self.deltas.shards.tensors[key].shape for key in (update.a, update.b))
                shape = (a[1], b[0]) if update.transposed else (b[0], a[1])
                fits = shape == stored.shape and a[0] == b[1]
            if not fits:
                raise ConfigError(
                    f"{self.deltas.folder}: is for another base: {module} is {list(stored.shape)} "
                    f"in the base and {list(shape)} in the adapter"
                )
            self._modules[name] = parameter
        for parameter, key in self.deltas.copies.items():
            self._check_copy(parameter, key)

    @property
    def changed(self) -> frozenset[str]:
        """Names of the tensors that are not the base's."""
        return frozenset(self._modules) | ({self.untied} if self.untied else frozenset())

    def read(self, name: str, first: int = 0, last: int | None = None) -> Tensor:
        """As :meth:`packtrain.model.shards.Shards.read`; rounded once, to the base's type."""
        dtype = self.tensors[name].dtype
        parameter = self._modules.get(name)
        if parameter is not None and parameter in self.deltas.replaced:
            return self.deltas.shards.read(self.deltas.replaced[parameter], first, last).to(dtype)
        if parameter is None and self.as_trained is None:
            return self.base.read(self._source(name), first, last)
        module = name.removesuffix(".weight") if parameter is None else parameter.rpartition(".")[0]
        transposed = parameter is not None and self.deltas.updates[module].transposed
        if self.as_trained is None and not transposed:
            weight = self.base.read(self._source(name), first, last).float()
            return self.deltas.applied(module, weight, first).to(dtype)
        # Neither a quantisation nor a transposed update can be done on some rows alone.
        if self._whole is None or self._whole[0] != name:
            weight = self.base.read(self._source(name))
            if self.as_trained is not None:
                weight = self.as_trained(name, weight)
            if parameter is not None:
                weight = self.deltas.applied(module, weight.float())
            self._whole = (name, weight.to(dtype))
        return self._whole[1][first:last] if self.tensors[name].shape else self._whole[1]

    def rows(self, name: str, indices: Sequence[int]) -> Tensor:
        return torch.cat([self.read(name, index, index + 1) for index in indices])

    def _source(self, name: str) -> str:
        if name == self.untied:
            source = self.layout.stored(f"{self.layout.embedding}.weight", self.base.tensors)
            assert source is not None
            return source
        return name

    def _name(self, parameter: str) -> str:
        name = self.layout.stored(parameter, self.tensors)
        if name is None:
            raise ConfigError(
                f"{self.deltas.folder}: {parameter} is in no file of its base",
                hint="is it an adapter for another base? Or let peft merge it: PeftModel.merge_and_unload",
            )
        return name

    def _check_copy(self, parameter: str, key: str) -> None:
        source = self._source(self._name(parameter))
        for first in range(0, self.base.tensors[source].shape[0], 4096):
            ours, theirs = (
                self.base.read(source, first, first + 4096),
                self.deltas.shards.read(key, first, first + 4096),
            )
            if not torch.equal(ours.float(), theirs.float()):
                raise ConfigError(
                    f"{self.deltas.folder}: was trained on a base whose {parameter} is another",
                    hint="let peft merge it: PeftModel.merge_and_unload",
                )

    def _untie(self) -> None:
        """A head that shares the embeddings' weights, one of which was trained alone, becomes its own."""
        layout, deltas = self.layout, self.deltas
        if not layout.tied or layout.head is None or f"{layout.head}.weight" in self.tensors:
            return
        head, embedding = f"{layout.head}.weight", f"{layout.embedding}.weight"
        touched = [head in deltas.replaced or layout.head in deltas.updates]
        touched.append(embedding in deltas.replaced or layout.embedding in deltas.updates)
        if not any(touched) or deltas.keeps_tied or self._trained_as_one(head, embedding):
            return
        source = layout.stored(embedding, self.tensors)
        if source is not None:
            self.untied = head
            self.tensors[head] = replace(self.tensors[source])

    def _trained_as_one(self, head: str, embedding: str) -> bool:
        if head not in self.deltas.replaced or embedding not in self.deltas.replaced:
            return False
        both = [self.deltas.shards.read(self.deltas.replaced[name]) for name in (head, embedding)]
        return torch.equal(*both)


def blocks(weights: Weights, name: str) -> Iterator[Tensor]:
    """A tensor in pieces of whole rows, each of at most about :data:`BLOCK` numbers."""
    shape = weights.tensors[name].shape
    if not shape or not shape[0]:
        yield weights.read(name)
        return
    columns = max(1, int(torch.Size(shape[1:]).numel()))
    step = max(1, BLOCK // columns)
    for first in range(0, shape[0], step):
        yield weights.read(name, first, min(first + step, shape[0]))
