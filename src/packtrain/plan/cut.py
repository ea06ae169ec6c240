"""A step of all layers, told from steps of a few: which layers are traced, and what they say of the others.

Layers that are alike and stand in a row add the same each: what a model with one more of them needs more.
Where an adapter is in some layers only, those below all of them keep nothing for the backward pass, and
those between keep less than the ones that learn; so layers count as alike where their type is, and whether
they learn, and so do groups of layers that come again and again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from packtrain.plan.setup import Setup, text_of

if TYPE_CHECKING:
    from packtrain.plan.graph import Observed

#: Fewest layers (or groups of them) that show how the first, the second, the last but one and the last
#: differ.
FEWEST = 3
#: Layers of a group that comes again and again.
LONGEST_GROUP = 8


@dataclass(frozen=True)
class Place:
    """One layer in the whole model and in those that are traced, numbered from 0."""

    whole: int
    base: int
    grown: tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """The models to trace: ``base``, and for each row of alike layers the same with more of them."""

    base: tuple[Setup, int]
    """A set-up, and with how many of its layers it is traced."""
    grown: tuple[tuple[Setup, int], ...]
    times: tuple[int, ...]
    """How often what each of ``grown`` has more is in the whole model beyond ``base``."""
    places: tuple[Place, ...]


def cut(setup: Setup) -> Cut:
    """How ``setup`` is traced."""
    return _some_learn(setup) if setup.adapter.layers else _all_alike(setup)


def _all_alike(setup: Setup) -> Cut:
    """Layers of several types in turn (local and global attention) are taken whole turns at a time."""
    from packtrain.plan.build import layer_turn

    turn, layers = layer_turn(setup), setup.layers
    few = FEWEST + (layers - FEWEST) % turn
    if layers <= few + turn:
        return _whole(setup)
    more = few + turn
    places = (
        Place(0, 0, (0,)),
        Place(1, 1, (1,)),
        Place(layers - 2, few - 2, (more - 2,)),
        Place(layers - 1, few - 1, (more - 1,)),
    )
    return Cut((setup, few), ((setup, more),), ((layers - few) // turn,), places)


def _whole(setup: Setup) -> Cut:
    return Cut((setup, setup.layers), (), (), tuple(Place(each, each, ()) for each in range(setup.layers)))


def _some_learn(setup: Setup) -> Cut:
    """A trace for each row of alike layers, unless those are more work than one of all layers."""
    from packtrain.plan.build import layer_types

    types, learning = layer_types(setup), set(setup.adapter.layers)
    groups = list(_groups([(kind, number in learning) for number, kind in enumerate(types)]))
    rows = [group for group in groups if group.is_cut]
    base = [FEWEST if group.is_cut else group.times for group in groups]

    def model(counts: Sequence[int]) -> tuple[Setup, int]:
        kept = [
            group.start + number
            for group, count in zip(groups, counts, strict=True)
            for number in range(group.size * count)
        ]
        return _with_layers(setup, types, kept), len(kept)

    def grown(row: _Group) -> list[int]:
        return [count + (group is row) for group, count in zip(groups, base, strict=True)]

    every = [grown(row) for row in rows]
    models = [model(counts) for counts in (base, *every)]
    if not rows or sum(layers for _, layers in models) >= setup.layers:
        return _whole(setup)
    return Cut(
        models[0],
        tuple(models[1:]),
        tuple(row.times - FEWEST for row in rows),
        tuple(_places(groups, base, every)),
    )


@dataclass(frozen=True)
class _Group:
    """``size`` layers from ``start`` on that come ``times`` in a row."""

    start: int
    size: int
    times: int

    @property
    def is_cut(self) -> bool:
        """Whether two traces, with :data:`FEWEST` and one more, are less than all of it."""
        return self.times > FEWEST + 1


def _groups(marks: Sequence[object]) -> Iterator[_Group]:
    """The whole sequence in groups, those first that leave out the most."""
    at = 0
    while at < len(marks):
        found = [_Group(at, size, _times(marks, at, size)) for size in range(1, LONGEST_GROUP + 1)]
        best = max(found, key=lambda group: ((group.times - FEWEST) * group.size, -group.size))
        best = best if best.is_cut else _Group(at, 1, 1)
        yield best
        at += best.size * best.times


def _times(marks: Sequence[object], start: int, size: int) -> int:
    block, times = marks[start : start + size], 1
    while marks[start + times * size : start + (times + 1) * size] == block:
        times += 1
    return times


def _places(groups: list[_Group], base: list[int], every: list[list[int]]) -> Iterator[Place]:
    """Each layer of the base. In a row of which some are left out the last is never counted from the begin,
    nor the first from the end: they are not like those in the middle.
    """
    whole = [group.times for group in groups]
    for number, group in enumerate(groups):
        for from_end in (False, True) if group.is_cut else (False,):
            blocks = range(base[number])
            if group.is_cut:
                blocks = blocks[1:] if from_end else blocks[:-1]
            for block in blocks:
                first, *others = (
                    _begin(groups, counts, number)
                    + group.size * (block + from_end * (counts[number] - base[number]))
                    for counts in (base, whole, *every)
                )
                for inside in range(group.size):
                    stands, *grown = (each + inside for each in others)
                    yield Place(stands, first + inside, tuple(grown))


def _begin(groups: list[_Group], counts: list[int], number: int) -> int:
    """The number of a group's first layer, where each group comes so many times."""
    before = zip(groups[:number], counts[:number], strict=True)
    return sum(group.size * count for group, count in before)


def _with_layers(setup: Setup, types: Sequence[str | None], kept: list[int]) -> Setup:
    """The set-up of a model that has these layers alone."""
    config: dict[str, Any] = json.loads(setup.model)
    text = text_of(config)
    text["num_hidden_layers"] = len(kept)
    if types[0] is not None:
        text["layer_types"] = [types[number] for number in kept]
    learning = set(setup.adapter.layers)
    numbers = tuple(number for number, layer in enumerate(kept) if layer in learning)
    return replace(
        setup,
        model=json.dumps(config, sort_keys=True),
        adapter=replace(setup.adapter, layers=numbers),
    )


@dataclass(frozen=True)
class Line:
    """What was seen of a few layers, to say what all of them take. Memory and work are a line in them."""

    cut: Cut
    observed: tuple[Observed, ...]
    """Of the cut's base, then of each grown one."""

    def told(self, values: Sequence[float]) -> int:
        """Of the whole model, from that of each traced one."""
        base, *grown = values
        added = (times * (more - base) for times, more in zip(self.cut.times, grown, strict=True))
        return round(base + sum(added))

    def peaks(self) -> dict[tuple[str, int], dict[str, int]]:
        """(what, layer) -> the peak there, in total and by kind; the layer is -1 where there is none.

        Between two places that are told the memory is a line.
        """
        found: dict[tuple[str, int], dict[str, int]] = {}
        for (what, layer), peak in self.observed[0].peaks.items():
            for place in self._places(layer):
                grown = zip(self.observed[1:], place.grown, strict=True)
                seen = [peak, *(one.peaks.get((what, there)) for one, there in grown)]
                told = [{"total": each.total, **each.by_kind} for each in seen if each is not None]
                if len(told) == len(seen):
                    kinds = {kind for each in told for kind in each}
                    found[what, place.whole] = {
                        kind: self.told([each.get(kind, 0) for each in told]) for kind in kinds
                    }
        return found

    def _places(self, layer: int) -> list[Place]:
        """Those that a layer of the base stands for."""
        if layer < 0:
            return [Place(-1, -1, (-1,) * len(self.cut.times))]
        return [place for place in self.cut.places if place.base == layer]
