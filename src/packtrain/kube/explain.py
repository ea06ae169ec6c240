"""``packtrain explain``: a run's own last words, beside what is seen of it in its cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from packtrain.config import RunConfig
from packtrain.errors import PacktrainError
from packtrain.kube.access import connect
from packtrain.kube.api import Cluster
from packtrain.kube.status import of_run
from packtrain.report.explain import explain
from packtrain.report.facts import read_facts
from packtrain.run.where import find


@dataclass(frozen=True)
class Explained:
    name: str
    run_id: str
    outcome: str
    exit_code: int | None
    paragraph: str
    notes: tuple[PacktrainError, ...] = ()
    """What could not be seen, and why."""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "run_id": self.run_id,
            "outcome": self.outcome,
            "exit_code": self.exit_code,
            "explained": self.paragraph,
            "notes": [str(note) for note in self.notes],
        }


def explained(
    run: str, connected: Callable[[RunConfig], AbstractContextManager[Cluster]] = connect
) -> Explained:
    """Errors: :class:`ConfigError` where there is no run, and those of storage."""
    with find(run) as found:
        facts = read_facts(found.run_dir, spent_usd=found.spent_usd)
        config = found.config
    cluster = hint = None
    notes: tuple[PacktrainError, ...] = ()
    if config is not None and config.cluster.name is not None:
        try:
            standing = of_run(config, lambda: connected(config))
            cluster, notes = standing.sentence, standing.notes
            hint = standing.state.hint if standing.state else None
        except PacktrainError as error:
            notes = (error,)
    end = facts.story.end
    return Explained(
        name=facts.name,
        run_id=facts.run_id,
        outcome=facts.story.outcome,
        exit_code=end.fields.get("exit_code", 75 if end.kind == "preempted" else None) if end else None,
        paragraph=explain(facts.story, now=time.time(), cluster=cluster, hint=hint),
        notes=notes,
    )
