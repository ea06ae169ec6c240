"""``packtrain.plan(run)``: memory, time and cost before a dollar is spent, as ``packtrain plan`` has them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from packtrain.api.guest import alone, put_back, sentences
from packtrain.api.page import table
from packtrain.api.reading import Overrides, Run, read, texts

if TYPE_CHECKING:
    from packtrain.plan.answer import Answer
    from packtrain.plan.interval import Interval
    from packtrain.plan.suggest import Suggestion


@dataclass(frozen=True, repr=False)
class Plan:
    """What a run needs; shown as ``packtrain plan`` prints it."""

    answer: Answer
    """All that was found out."""

    @property
    def fits(self) -> bool:
        """Whether it fits into the memory of the machine; of several set-ups that were asked for, any."""
        return self.answer.fits

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of each GPU at a step's peak, by kind: weights, activations, …"""
        return dict(self.answer.plan.profile.by_kind)

    @property
    def needed_bytes(self) -> int:
        """Of each GPU in all, with what its libraries and allocator take."""
        return self.answer.plan.profile.reserved_bytes

    @property
    def available_bytes(self) -> int:
        """That each GPU has."""
        return self.answer.plan.target.memory

    @property
    def seconds(self) -> Interval | None:
        """How long it takes: ``low``, ``expected``, ``high``; None where that is not known."""
        time = self.answer.plan.time
        return None if time is None else time.seconds

    @property
    def usd(self) -> Interval | None:
        """What it costs; None where that is not known."""
        return self.answer.plan.cost.usd

    @property
    def suggestions(self) -> tuple[Suggestion, ...]:
        """What would make it fit, the least change first; each has a ``sentence`` and ``overrides``."""
        return self.answer.suggestions

    @sentences()
    def check(self) -> Plan:
        """Itself. Errors: :class:`~packtrain.errors.GateError` where it does not fit."""
        from packtrain.plan.ask import check_fits

        check_fits(self.answer)
        return self

    def to_json(self) -> dict[str, Any]:
        """What ``packtrain plan --json`` prints."""
        return self.answer.to_json()

    def __str__(self) -> str:
        from packtrain.plan.shown import lines

        return "\n".join(lines(self.answer))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from packtrain.plan.answer import time_why
        from packtrain.plan.shown import NAMES
        from packtrain.train.progress import duration

        plan = self.answer.plan
        if self.answer.options is not None or self.answer.scaled is not None:
            return f"<pre>{escape(str(self))}</pre>"
        kinds = sorted(self.memory.items(), key=lambda item: -item[1])
        rows = [(NAMES.get(kind, kind), _gib(size), "at the peak of a step") for kind, size in kinds if size]
        rows.append(("needed", _gib(self.needed_bytes), f"of {_gib(self.available_bytes)}, {_verdict(self)}"))
        time, usd = self.seconds, self.usd
        if time is None:
            rows.append(("time", "not known", time_why(plan)))
        else:
            rows.append(("time", duration(time.expected), f"{duration(time.low)} to {duration(time.high)}"))
        if usd is not None:
            rows.append(("cost", f"{usd.expected:,.2f} USD", f"{usd.low:,.2f} to {usd.high:,.2f} USD"))
        elif plan.cost.price is not None:
            rows.append(("cost", "not known", plan.cost.why))
        rows += [("would fit", each.sentence, ", ".join(each.overrides)) for each in self.suggestions]
        return table(rows, (plan.config.name, "each GPU" if plan.target.machine else "", plan.target.name))


@sentences()
def plan(
    run: Run,
    overrides: Overrides = (),
    *,
    compare: bool = False,
    max_batch: bool = False,
    max_length: bool = False,
    scale: str | None = None,
    progress: bool = True,
) -> Plan:
    """What ``run`` needs, how long it takes and what it costs, without a GPU or the weights.

    ``run``, ``overrides``: as of :func:`packtrain.load`; the plan's own keys are among the overrides, such
    as ``{"plan.gpu": "l4", "plan.gpus": 8}``. ``compare``: rank machines and ways to buy them; ``max_batch``,
    ``max_length``: find the largest that fits; ``scale``: ``"8..1024"`` GPUs. A run that does not fit is an
    answer, too, with :attr:`Plan.suggestions`. Errors: :class:`~packtrain.errors.ConfigError`, and what keeps
    the base's configuration from being had.
    """
    from packtrain.plan.ask import Questions, ask
    from packtrain.plan.options import split
    from packtrain.plan.summary import Summary
    from packtrain.run.planned import keep
    from packtrain.train.progress import Silent, make_progress

    keys, rest = split(list(texts(overrides)))
    config = read(run, rest, data=False).config
    questions = Questions(compare, max_batch, max_length, scale)
    questions.counts()
    with alone(), put_back():
        shown = make_progress() if progress else Silent()
        try:
            answer = ask(config, keys, questions, shown.stage, forking=threading.active_count() == 1)
        finally:
            shown.close()
    # As the verb: a run tells what was planned beside what came.
    keep(answer.plan.config, Summary.of(answer.plan))
    return Plan(answer)


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.2f} GiB"


def _verdict(plan: Plan) -> str:
    left = plan.available_bytes - plan.needed_bytes
    return f"fits, {_gib(left)} left" if left >= 0 else f"DOES NOT FIT: {_gib(-left)} too much"
