"""``packtrain cancel`` and ``packtrain delete``: a run stopped with its state saved, or taken away."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Literal

from packtrain.config import RunConfig
from packtrain.errors import AccessError, ConfigError
from packtrain.kube import nodes
from packtrain.kube.api import CONFIG_MAP, DEPLOYMENT, JOB, JOBSET, Cluster, kind_of
from packtrain.kube.begin import remove
from packtrain.kube.follow import Observation, look
from packtrain.kube.names import PREFLIGHT, TRAINER, preflight_name, selector
from packtrain.kube.observe import Say, find_job
from packtrain.kube.places import run_uri
from packtrain.kube.whose import check_ours, known_run
from packtrain.run.mirror import CURRENT, IDENTITY, runs_uri
from packtrain.storage import open_storage


@dataclass(frozen=True)
class Stopped:
    name: str
    run_id: str | None
    outcome: Literal["stopped", "over", "absent"]
    """``over``: it had ended; ``absent``: no job of it was there."""


def cancel(cluster: Cluster, config: RunConfig, say: Say) -> Stopped:
    """Stop the run: its pods get SIGTERM and their grace, and save their state.

    Errors: :class:`ConflictError` for a job that is not packtrain's, :class:`UnavailableError` where its
    pods do not go.
    """
    with suppress(AccessError):
        remove(cluster, JOB, preflight_name(config.name))
    job = find_job(cluster, config.name)
    if job is None:
        say(f"No job of the run {config.name} is in {cluster.name}; nothing is to be stopped.")
        return Stopped(config.name, None, "absent")
    run_id = check_ours(job, config.name)
    over = look(Observation(job)).over
    if not over:
        say(f"The run {config.name} ({run_id}) is asked to stop; its pods save their state.")
    remove(cluster, kind_of(job), config.name)
    if over:
        say(f"The run {config.name} ({run_id}) was over; its {job['kind']} is taken away.")
    else:
        say(f"Stopped. Its state is in {run_uri(config, run_id)}; packtrain submit RUN goes on from there.")
    say(nodes.sentence(nodes.gpu_nodes(cluster), cluster.name))
    return Stopped(config.name, run_id, "over" if over else "stopped")


@dataclass(frozen=True)
class Found:
    """What a run has in the cluster and in its bucket."""

    objects: tuple[tuple[str, str], ...]
    """Kind and name."""
    running: bool
    serves: tuple[str, ...]
    """Deployments of packtrain serve, which stay."""
    data: str | None
    """Its state in the bucket."""
    data_objects: int = 0
    data_bytes: int = 0

    def lines(self) -> list[str]:
        told = [f"{kind} {name}" for kind, name in self.objects]
        if self.data is not None:
            told.append(f"{self.data_objects:,} objects ({self.data_bytes / 1e9:.2f} GB) under {self.data}")
        return told

    def left(self, config: RunConfig) -> list[str]:
        """What stays."""
        told = [
            f"Deployment {name} of packtrain serve (packtrain serve RUN --stop removes it)"
            for name in self.serves
        ]
        return [*told, f"the adapter in {config.output.uri}, if it was published"]


def find(cluster: Cluster, config: RunConfig, *, data: bool) -> Found:
    """What :func:`delete` would remove. Errors: those of cluster and bucket."""
    job = find_job(cluster, config.name)
    objects: list[tuple[str, str]] = []
    for role in (TRAINER, PREFLIGHT):
        for kind in (JOB, JOBSET, CONFIG_MAP):
            with suppress(ConfigError):  # JobSet is not installed
                items = cluster.list(kind, selector(config.name, role)).items
                # A JobSet's Jobs go with it; a ConfigMap may have lost its owner, or never had one.
                named = [
                    each["metadata"]["name"]
                    for each in items
                    if kind is CONFIG_MAP or not each["metadata"].get("ownerReferences")
                ]
                objects += [(kind.name, name) for name in named]
    serves: list[str] = []
    with suppress(AccessError):
        serves = [each["metadata"]["name"] for each in cluster.list(DEPLOYMENT, selector(config.name)).items]
    ours = job is not None and (job["kind"], config.name) in objects
    running = ours and not look(Observation(job)).over
    return _with_data(Found(tuple(objects), running, tuple(serves), None), config, data=data)


def _with_data(found: Found, config: RunConfig, *, data: bool) -> Found:
    known = known_run(config) if data else None
    if known is None:
        return found
    uri = run_uri(config, known.run_id)
    with closing(open_storage(uri)) as storage:
        held = storage.list()
    size = sum(info.size for info in held)
    return Found(found.objects, found.running, found.serves, uri, len(held), size)


def delete(cluster: Cluster, config: RunConfig, found: Found, say: Say) -> None:
    """Take away what was found. The published adapter stays where it is.

    Errors: those of cluster and bucket; the same call goes on.
    """
    kinds = {"Job": JOB, "JobSet": JOBSET, "ConfigMap": CONFIG_MAP}
    for kind, name in sorted(found.objects, key=lambda each: each[0] == "ConfigMap"):
        if kind == "ConfigMap":
            cluster.delete(CONFIG_MAP, name)
        else:
            remove(cluster, kinds[kind], name)
        say(f"{kind} {name} is gone")
    if found.data is not None:
        _delete_data(config, found.data, say)
    for line in found.left(config):
        say(f"left: {line}")


def _delete_data(config: RunConfig, uri: str, say: Say) -> None:
    """The identity last, after the name that leads to it: a cut leaves what a second call finds."""
    shared = None if config.output.run_uri else runs_uri(config.output.uri, config.name)
    with closing(open_storage(uri)) as storage:
        held = storage.list()
        for info in held:
            if info.name != IDENTITY:
                storage.delete(info.name, if_generation=info.generation)
        if shared is not None:
            with closing(open_storage(shared)) as runs:
                runs.delete(CURRENT)
        storage.delete(IDENTITY)
    say(f"{len(held):,} objects under {uri} are gone")
