"""How a run that is watched stands in its cluster."""

from __future__ import annotations

from packtrain.config import RunConfig
from packtrain.kube.access import connect
from packtrain.kube.follow import look, spoken
from packtrain.kube.observe import find_job, observe
from packtrain.run.watch_view import Standing


def standing(config: RunConfig) -> Standing:
    """As ``packtrain status`` says it. Errors: those of :class:`packtrain.kube.api.Cluster`."""
    with connect(config) as cluster:
        seen, _ = observe(cluster, find_job(cluster, config.name), config.name)
    state = look(seen)
    return Standing(spoken(state), None if state.phase == "gone" else state.over, seen.lines)
