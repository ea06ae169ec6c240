"""``packtrain status``: how runs stand, from the cluster and, for what is not there any more, the bucket."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packtrain.config import RunConfig
from packtrain.errors import ConfigError, PacktrainError
from packtrain.kube.access import OVERRIDE
from packtrain.kube.api import JOB, JOBSET, PATIENCE, Cluster, Object
from packtrain.kube.follow import State, look, spoken
from packtrain.kube.names import OUTPUT_URI, RUN_ID_LABEL, RUN_LABEL, RUN_URI, TRAINER, selector
from packtrain.kube.observe import find_job, observe
from packtrain.kube.places import Story, story
from packtrain.storage.cache import cache_folder
from packtrain.storage.retry import RetryPolicy


@dataclass(frozen=True)
class Standing:
    """One run, as far as it is known."""

    name: str
    run_id: str
    namespace: str
    cluster: str
    state: State | None
    """In the cluster; None where it could not be asked."""
    story: Story | None = None
    """In the bucket; None where it was not asked, or has none."""
    notes: tuple[PacktrainError, ...] = ()
    """Why something could not be seen."""
    job: Object | None = None

    @property
    def place(self) -> str:
        return f"{self.cluster}, namespace {self.namespace}"

    @property
    def sentence(self) -> str:
        if self.state is not None and self.state.phase != "gone":
            return spoken(self.state)
        told = self.story.to_json() if self.story else None
        if told is None:
            asked = "the bucket cannot be asked" if self.notes else "no run in the bucket"
            return f"unknown: no job in the cluster, and {asked}"
        ended = told["ended"]
        if ended is None:
            where = "the cluster cannot be asked" if self.state is None else "not in the cluster"
            last = told["last_event"]
            return f"{where}; " + (
                f"its last word is of {last}" if last else "the bucket has no word of it yet"
            )
        if ended["outcome"] == "done":
            return "succeeded: done and verified"
        return f"{ended['outcome']}: {ended['message'] or 'nothing more was said'}"

    def to_json(self) -> dict[str, Any]:
        annotations = (self.job or {}).get("metadata", {}).get("annotations") or {}
        state = self.state
        pods = [
            {"name": pod.name, "node": pod.node, "index": pod.index, "phase": pod.phase}
            for pod in (state.pods if state else ())
        ]
        return {
            "name": self.name,
            "run_id": self.run_id,
            "namespace": self.namespace,
            "cluster": self.cluster,
            "status": self.sentence,
            "phase": state.phase if state else None,
            "detail": state.detail if state else None,
            "hint": state.hint if state else None,
            "exit_code": state.exit_code if state else None,
            "pods": pods,
            "run_uri": annotations.get(RUN_URI) or (self.story.uri if self.story else None),
            "output_uri": annotations.get(OUTPUT_URI),
            "progress": self.story.to_json() if self.story else None,
            "notes": [str(note) for note in self.notes],
        }


def of_run(config: RunConfig, connect: Callable[[], AbstractContextManager[Cluster]]) -> Standing:
    """One run. What cannot be asked is noted; an error only where the other side knows nothing."""
    notes: list[PacktrainError] = []
    state = job = found = None
    place = config.cluster.name or "the cluster"
    try:
        with connect() as cluster:
            place = cluster.name
            job = find_job(cluster, config.name)
            state = look(observe(cluster, job, config.name)[0])
    except PacktrainError as error:
        notes.append(error)
    try:
        found = story(config)
    except PacktrainError as error:
        notes.append(error)
    if state is None and found is None:
        raise notes[0]
    labels = (job or {}).get("metadata", {}).get("labels") or {}
    run_id = labels.get(RUN_ID_LABEL, "").upper() or (found.identity.run_id if found else "")
    return Standing(config.name, run_id, config.cluster.namespace, place, state, found, tuple(notes), job)


def of_cluster(cluster: Cluster) -> list[Standing]:
    """All runs that have a job there. Errors: those of :class:`Cluster`."""
    wanted = selector(role=TRAINER)
    jobs = [each for each in cluster.list(JOB, wanted).items if not _owned(each)]
    with suppress(ConfigError):  # JobSet is not installed
        jobs += cluster.list(JOBSET, wanted).items
    standings = []
    for job in jobs:
        metadata = job["metadata"]
        labels, namespace = metadata.get("labels") or {}, metadata.get("namespace", cluster.namespace)
        run = labels.get(RUN_LABEL, metadata["name"])
        state = look(observe(cluster.within(namespace), job, run)[0])
        run_id = labels.get(RUN_ID_LABEL, "").upper()
        standings.append(Standing(run, run_id, namespace, cluster.name, state, job=job))
    return sorted(standings, key=lambda each: (each.namespace, each.name))


def _owned(job: Object) -> bool:
    """A JobSet's own Job."""
    return bool(job["metadata"].get("ownerReferences"))


def known_clusters(
    namespace: str, kubeconfig: Path | None = None, patience: RetryPolicy = PATIENCE
) -> Iterator[Cluster]:
    """The clusters that packtrain has been in from this machine; all namespaces where none is named."""
    named = kubeconfig or (Path(os.environ[OVERRIDE]) if os.environ.get(OVERRIDE) else None)
    paths = [named] if named else sorted((cache_folder() / "kubeconfig").glob("*.yaml"))
    if not paths:
        raise ConfigError(
            "packtrain has not been in any cluster from this machine",
            hint="name a run file: packtrain status RUN",
        )
    for path in paths:
        spoken_name = path.stem.rpartition("_")[2] if named is None else f"the cluster of {OVERRIDE}"
        with closing(Cluster.open(path, spoken_name, namespace, patience)) as cluster:
            yield cluster
