"""A plan for people: lines with bars, of the width of a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from packtrain.plan.answer import Answer, calibrated_on, time_why
from packtrain.plan.compare import PAYS, Option, Scaled, communication, stops_paying
from packtrain.plan.interval import Interval
from packtrain.plan.machines import GIB
from packtrain.plan.plan import Planned
from packtrain.plan.suggest import Suggestion
from packtrain.train.progress import duration as spoken

BAR = 32
COMPUTED = {False: "kept", True: "computed again", "selective": "computed again in part"}
NAMES = {"logits_and_loss": "logits and loss", "all_gather": "all-gather"}


def lines(answer: Answer) -> Iterator[str]:
    """The answer to what was asked: one plan, or several beside each other."""
    yield from overview(answer.plan)
    if answer.max_batch is not None:
        yield f"largest    micro-batch: {answer.max_batch or 'none fits'}"
    if answer.max_length is not None:
        length = f"{answer.max_length:,} tokens" if answer.max_length else "none fits"
        yield f"longest    sequence, in micro-batches of 1: {length}"
    if answer.suggestions:
        yield ""
        yield "What would make it fit (traced, each by itself):"
        yield from map(_suggested, answer.suggestions)
    elif not answer.plan.fits:
        yield "Nothing that was tried makes it fit."
    if answer.options is not None:
        yield ""
        yield from comparison(answer.options)
    if answer.scaled is not None:
        yield ""
        yield from scaling(answer.scaled)


def overview(plan: Planned) -> Iterator[str]:
    setup, target = plan.setup, plan.target
    capacity = f", {plan.config.cluster.capacity}" if target.machine else ""
    yield f"{plan.config.name} on {target.name}{capacity}"
    yield from memory(plan)
    sharding = "not sharded" if setup.sharding == "none" else setup.sharding.upper()
    yield (
        f"set-up     {setup.adapter.kind if not plan.config.full else 'full fine-tuning'}, {setup.dtype}, "
        f"{sharding}, {setup.attention} attention, {setup.loss} loss, "
        f"activations {COMPUTED[setup.checkpointing]}"
    )
    yield (
        f"step       {plan.config.train.batch_tokens:,} tokens: micro-batches of {setup.micro_batch} × "
        f"{setup.length:,} on {target.gpus} {'process' if target.machine is None else 'GPU'}"
        f"{'s' if target.gpus > 1 else ''}, {setup.accumulation} in turn"
    )
    yield from _data(plan)
    yield from _time(plan)
    yield from _cost(plan)


def memory(plan: Planned) -> Iterator[str]:
    profile, available = plan.profile, plan.target.memory
    yield f"memory     of each {'process' if plan.target.machine is None else 'GPU'}"
    for kind, size in sorted(profile.by_kind.items(), key=lambda item: -item[1]):
        if size:
            yield f"  {NAMES.get(kind, kind):<16} {_gib(size)}  {_bar(size, available)}"
    peak = profile.peak_bytes
    yield f"  {'peak':<16} {_gib(peak)}  {_bar(peak, available)} {profile.peak_phase}"
    yield f"  {'between steps':<16} {_gib(profile.resident_bytes)}"
    left = available - profile.reserved_bytes
    verdict = (
        f"fits, {left / GIB:.2f} GiB left" if left >= 0 else f"DOES NOT FIT: {-left / GIB:.2f} GiB too much"
    )
    yield f"  {'needed':<16} {_gib(profile.reserved_bytes)}  of {available / GIB:.2f} GiB: {verdict}"


def comparison(options: Sequence[Option]) -> Iterator[str]:
    yield f"{'machine':<24} {'capacity':<11} {'memory':>13}  {'time':>36}  {'USD':>24}"
    for option in options:
        plan, target = option.plan, option.plan.target
        assert target.machine is not None
        name = f"{target.nodes} × {target.machine.name}"
        share = f"{plan.profile.reserved_bytes / GIB:.1f} of {target.memory / GIB:.0f}"
        marks = [
            word for word, marked in (("cheapest", option.cheapest), ("fastest", option.fastest)) if marked
        ]
        time = _range(plan.time.seconds) if plan.time else spoken(option.seconds)
        cells = f"{time:>36}  {_priced(option):>24}" if plan.fits else f"{'does not fit':>36}"
        yield f"{name:<24} {option.capacity:<11} {share:>13}  {cells}  {', '.join(marks)}".rstrip()
    what = "" if options and options[0].plan.time else ", of a million tokens"
    yield f"Memory in GiB of each GPU; time and cost{what}, low to high. Where no price is known: none."


def scaling(rows: Sequence[Scaled]) -> Iterator[str]:
    yield (
        f"{'GPUs':>6} {'sharding':>8} {'GiB a GPU':>10} {'in node':>9} {'between':>9} {'step':>10} "
        f"{'tokens/s':>11} {'efficiency':>10}"
    )
    for row in rows:
        plan, traffic = row.plan, communication(row.plan)
        assert plan.step is not None and plan.tokens_per_second is not None
        yield (
            f"{plan.target.gpus:>6} {plan.setup.sharding:>8} {plan.profile.reserved_bytes / GIB:>10.2f} "
            f"{traffic['in_node'] / 1e9:>6.2f} GB {traffic['between_nodes'] / 1e9:>6.2f} GB "
            f"{plan.step.seconds.expected:>8.3f} s {plan.tokens_per_second:>11,.0f} {row.efficiency:>10.0%}"
            + ("" if plan.fits else "  does not fit")
        )
    yield "GB are what collectives move in an optimizer step, in a node and between nodes."
    limit = stops_paying(rows)
    if limit is None:
        yield "Each doubling pays."
        return
    plan = rows[0].plan
    sequences = plan.data.bins_a_step if plan.data else plan.config.train.batch_tokens / plan.setup.length
    why = (
        f": a step has {sequences:.0f} sequences, and GPUs beyond that have none; a larger "
        "train.batch_tokens is another training"
        if limit >= sequences / plan.setup.micro_batch
        else ""
    )
    yield f"More than {limit} GPUs do not pay (twice as many still take over {PAYS:.0%} of the time){why}."


def _data(plan: Planned) -> Iterator[str]:
    data = plan.data
    if data is None:
        return
    if data.streamed:
        yield (
            f"data       streamed; from the first {data.sampled_rows:,} rows, ± {data.error:.1%}: "
            f"{data.supervised:.0%} supervised"
        )
        yield f"  in packed sequences, {data.packing_efficiency:.1%} full: {data.steps:,} steps"
        return
    sampled = f" (from {data.sampled_rows:,} of them, ± {data.error:.1%})" if data.error else ""
    yield (
        f"data       {data.rows:,} rows, {data.tokens:,} tokens{sampled}, {data.supervised:.0%} supervised"
    )
    full = f"{data.packing_efficiency:.1%} full"
    yield f"  in {data.bins:,} packed sequences, {full}: {data.steps:,} steps"


def _time(plan: Planned) -> Iterator[str]:
    if plan.time is None:
        yield f"time       not known: {time_why(plan)}"
    else:
        yield f"time       about {_range(plan.time.seconds)}"
        parts = [
            f"{name} {spoken(part.expected)}" for name, part in plan.time.parts.items() if part.expected >= 1
        ]
        yield f"  {', '.join(parts)}"
    if plan.step is not None and plan.tokens_per_second is not None:
        waiting = plan.step.waiting.expected / plan.step.seconds.expected
        told = f", {waiting:.0%} of it waiting for other GPUs" if waiting >= 0.005 else ""
        yield (
            f"  a step {plan.step.seconds.expected:.2f} s ({plan.step.seconds.low:.2f} to "
            f"{plan.step.seconds.high:.2f}), {plan.tokens_per_second:,.0f} tokens/s{told}"
        )
        yield f"  calibrated on {calibrated_on(plan)}"


def _cost(plan: Planned) -> Iterator[str]:
    cost, price = plan.cost, plan.cost.price
    if price is None:
        return
    if cost.usd is None:
        yield f"cost       not known: {cost.why}"
    else:
        most = "at most " if price.upper_bound else ""
        usd = cost.usd
        yield f"cost       {most}about {usd.expected:,.2f} USD ({usd.low:,.2f} to {usd.high:,.2f})"
    if price.usd is not None:
        yield (
            f"  {plan.target.nodes} × {price.usd:,.2f} USD an hour: {price.capacity}, {price.region}, "
            f"{price.date}; yours may differ"
        )
    if cost.preemptions is not None:
        lost = cost.preemptions
        yield (
            f"  preemptions expected: {lost.expected.expected:.2g}, {spoken(lost.lost.expected)} lost "
            f"(up to {spoken(lost.lost.high)}); from {lost.source}"
        )


def _suggested(suggestion: Suggestion) -> str:
    time = f", {spoken(suggestion.seconds.expected)}" if suggestion.seconds else ""
    usd = f", {suggestion.cost.usd.expected:,.2f} USD" if suggestion.cost.usd else ""
    sets = " ".join(f"-s {each}" for each in suggestion.overrides)
    return f"  {suggestion.sentence}: {suggestion.reserved_bytes / GIB:.1f} GiB{time}{usd}\n      {sets}"


def _priced(option: Option) -> str:
    if option.usd is None:
        return "none"
    bound = "≤ " if option.cost.price and option.cost.price.upper_bound else ""
    if option.cost.usd is None:
        return f"{bound}{option.usd:,.2f}"
    return (
        f"{bound}{option.cost.usd.expected:,.2f} ({option.cost.usd.low:,.2f} to {option.cost.usd.high:,.2f})"
    )


def _range(seconds: Interval) -> str:
    return f"{spoken(seconds.expected)} ({spoken(seconds.low)} to {spoken(seconds.high)})"


def _gib(size: int) -> str:
    return f"{size / GIB:>8.2f} GiB"


def _bar(size: int, available: int) -> str:
    """Of the whole device; beyond its end where it does not fit."""
    wanted = round(BAR * size / available)
    full = min(wanted, BAR)
    return "█" * full + "░" * (BAR - full) + ("▶" if wanted > BAR else "")
