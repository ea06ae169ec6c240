"""What a run's folder says beside its events: who it is, its settings, its receipt, what it has cost."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from packtrain.artifacts.receipt import Receipt, package_versions
from packtrain.config import RunConfig, identity
from packtrain.errors import ConfigError, PacktrainError
from packtrain.plan.machines import machine, price_per_hour
from packtrain.report.story import Story, gather
from packtrain.rundir import RunDir, stream
from packtrain.runfile import load


@dataclass(frozen=True)
class Cost:
    usd: float
    exact: bool
    """By the run's own ledger; else attempts times list price."""
    said: str


@dataclass(frozen=True)
class RunFacts:
    name: str
    run_id: str
    story: Story
    settings: dict[str, Any]
    """``section.key`` and value, of what a reader may see: no project, no accounts."""
    receipt: Receipt | None
    versions: dict[str, str]
    cost: Cost | None
    here: bool = False
    """This process is the run: it has not told of its end yet."""


def read_facts(
    run_dir: RunDir, *, spent_usd: float | None = None, here: bool = False, story: Story | None = None
) -> RunFacts:
    """Of any run, in whatever state. ``here``: this process is the run, whose versions are known.

    ``story``: its events, for who has read them already; then a run may have none yet.

    Errors: :class:`ConfigError` for a folder that holds no run.
    """
    who = run_dir.identity()
    if story is None and who is None and not run_dir.events_file.exists():
        raise ConfigError(
            f"{run_dir.path}: holds no run: there is neither run.json nor events.jsonl",
            hint="name a run's folder (runs/NAME), its run file, or its place in a bucket",
        )
    story = story or gather(stream(run_dir.events_file))
    config = _config(run_dir)
    receipt = _receipt(run_dir)
    return RunFacts(
        name=who.name if who else str(story.start.get("name", run_dir.path.name)),
        run_id=who.run_id if who else str(story.start.get("run_id", "")),
        story=story,
        settings=settings_of(config) if config else _flat(who.config if who else {}),
        receipt=receipt,
        versions=receipt.versions if receipt else package_versions() if here else {},
        cost=_cost(story, config, spent_usd),
        here=here,
    )


def _config(run_dir: RunDir) -> RunConfig | None:
    with suppress(PacktrainError, OSError):
        return load(run_dir.config_file).config
    return None


def _receipt(run_dir: RunDir) -> Receipt | None:
    with suppress(PacktrainError, OSError):
        return Receipt.from_json(run_dir.receipt_file.read_bytes(), str(run_dir.receipt_file))
    return None


def settings_of(config: RunConfig) -> dict[str, Any]:
    """``section.key`` and value, of what a reader may see: no prompts, no project, no accounts."""
    sections: dict[str, Any] = identity(config)
    evaluate = config.evaluate.model_dump(exclude={"prompts"})
    sections |= {"checkpoint": config.checkpoint.model_dump(), "evaluate": evaluate}
    if config.cluster.project is not None:
        sections["cluster"] = config.cluster.model_dump(include={"machine", "nodes", "capacity", "max_cost"})
    return _flat(sections)


def _flat(sections: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in sections.items():
        found |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
        )
    return found


def _cost(story: Story, config: RunConfig | None, spent_usd: float | None) -> Cost | None:
    """None for a run on one's own machine, and where no price is known."""
    if spent_usd is not None:
        return Cost(spent_usd, True, "of all attempts, by the run's own count")
    if config is None or config.cluster.project is None or "image" not in story.start:
        return None
    cluster = config.cluster
    with suppress(PacktrainError):
        price = price_per_hour(machine(cluster.machine), cluster.capacity, cluster.location)
        if price.usd is not None:
            hours = story.attempt_seconds / 3600
            return Cost(
                price.usd * cluster.nodes * hours,
                False,
                f"an estimate: {hours:.2f} h of {cluster.nodes} × {cluster.machine} ({cluster.capacity}) "
                f"at {price.usd:g} USD an hour (list price of {price.date}), without pulls and boots",
            )
    return None
