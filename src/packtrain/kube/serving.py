"""``packtrain serve``: the Deployment and Service made in the cluster, until vLLM answers, or removed."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any, cast

from packtrain.artifacts.receipt import RECEIPT, Receipt
from packtrain.config import RunConfig
from packtrain.errors import AccessError, ConfigError, UnavailableError, UsageError
from packtrain.kube.api import DEPLOYMENT, EVENT, POD, SERVICE, Cluster, Object
from packtrain.kube.cost import node_price
from packtrain.kube.names import selector, serve_name
from packtrain.kube.observe import Say
from packtrain.kube.pod_facts import read_pod
from packtrain.kube.reasons import scheduling, starting, when
from packtrain.kube.serve import SERVE, STARTING, Buyable, Serving, check_servable, render_serve
from packtrain.kube.serve_room import check, choose, sentence, served_of
from packtrain.plan.machines import machine
from packtrain.storage import open_storage


@dataclass(frozen=True)
class Waiting:
    """How often it is looked at, and how long what is stuck is waited for. Seconds."""

    every: float = 5.0
    longest: float = STARTING


def serving_of(
    config: RunConfig, image: str, machine_name: str | None, capacity: str, *, offline: bool, say: Say
) -> Serving:
    """On the machine that is named, or the cheapest that holds the base; ``say`` is told why.

    ``offline``: the base's config.json is looked for on this machine alone. Errors: :class:`ConfigError`
    for a machine that is not known, or a run without an output; :class:`GateError` for one that does not
    hold it; :class:`UsageError` where none is named and the base is not known.
    """
    if config.output.uri is None:
        raise ConfigError("output.uri: is needed: gs://BUCKET/PREFIX, where the verified adapter is")
    check_servable(config, config.output.uri, capacity)
    bought = cast(Buyable, capacity)
    named = None if machine_name is None else machine(machine_name, "--machine")
    found = _base_config(config, offline=offline or named is not None)
    if found is None:
        if named is None:
            raise UsageError(
                f"which machine holds {config.model.source} is not known: its config.json is not on this "
                "machine, and --dry-run asks nobody",
                hint="--machine TYPE names one; packtrain plan RUN brings the config.json",
            )
        return Serving(config, image, config.output.uri, named, bought)
    served = served_of(config, found)
    if named is None:
        named = choose(config, served, bought)
    else:
        check(config, served, named)
    say(sentence(config, served, named))
    return Serving(config, image, config.output.uri, named, bought, served)


def _base_config(config: RunConfig, *, offline: bool) -> dict[str, Any] | None:
    from packtrain.model.local import local_config

    found = local_config(config.model)
    if found is None and not offline:
        from packtrain.plan.plan import read_base

        return read_base(config, lambda _: None).config
    return found


def price_sentence(serving: Serving) -> str:
    location = serving.config.cluster.location
    return node_price(serving.machine, serving.capacity, until="until it is stopped", location=location)


def as_published(serving: Serving, receipt: Receipt) -> Serving:
    """With the very base that the adapter was trained on, where the run file leaves it open."""
    model, revision = serving.config.model, receipt.base.get("revision")
    if model.revision or serving.brought or not isinstance(revision, str):
        return serving
    pinned = serving.config.model_copy(update={"model": model.model_copy(update={"revision": revision})})
    return replace(serving, config=pinned)


def published(serving: Serving) -> Receipt:
    """The receipt of what would be served. Errors: :class:`ConfigError` where nothing verified is there."""
    uri = serving.adapter_uri
    with closing(open_storage(uri)) as storage:
        try:
            data = storage.read(RECEIPT)
        except FileNotFoundError:
            raise ConfigError(
                f"{uri}: no verified adapter is there: it has no {RECEIPT}",
                hint="packtrain submit RUN trains and publishes it",
            ) from None
    return Receipt.from_json(data, f"{uri}/{RECEIPT}")


def start(cluster: Cluster, serving: Serving) -> None:
    """Make it, or change what is there. Errors: those of the cluster."""
    for manifest in render_serve(serving):
        cluster.apply(manifest)


def stop(cluster: Cluster, config: RunConfig) -> list[str]:
    """Remove it; returns what was there."""
    name = serve_name(config.name)
    return [f"{kind.name} {name}" for kind in (SERVICE, DEPLOYMENT) if cluster.delete(kind, name)]


def wait(cluster: Cluster, config: RunConfig, say: Say, waiting: Waiting | None = None) -> None:
    """Until it answers; each change of what it waits for is said.

    Errors: :class:`ConfigError` where it was removed meanwhile, :class:`UnavailableError` where it takes
    too long.
    """
    waiting = waiting or Waiting()
    name, said, until = serve_name(config.name), "", time.monotonic() + waiting.longest
    while True:
        deployment = cluster.get(DEPLOYMENT, name)
        if deployment is None:
            raise ConfigError(f"the Deployment {name} is not in {cluster.name} any more")
        if _answers(deployment):
            return
        now = _standing(cluster, config)
        if now != said:
            say(now)
            said = now
        if time.monotonic() > until:
            raise UnavailableError(
                f"{name} does not answer after {waiting.longest / 60:.0f} minutes: {now}",
                hint=f"kubectl --namespace {cluster.namespace} logs deployment/{name} --all-containers; "
                "packtrain serve RUN --stop removes it",
            )
        time.sleep(waiting.every)


def _answers(deployment: Object) -> bool:
    """A pod of this very specification is ready: an older one may still be counted."""
    status = deployment.get("status") or {}
    seen = int(status.get("observedGeneration") or 0) >= int(deployment["metadata"].get("generation") or 0)
    return seen and bool(status.get("updatedReplicas")) and bool(status.get("availableReplicas"))


def _standing(cluster: Cluster, config: RunConfig) -> str:
    """What the newest pod waits for."""
    pods = [read_pod(each) for each in cluster.list(POD, selector(config.name, SERVE)).items]
    living = sorted((pod for pod in pods if not pod.deleted), key=lambda pod: pod.created)
    if not living:
        return "waits for its pod to be made"
    pod = living[-1]
    events: list[Object] = []
    with suppress(AccessError):
        told = cluster.list(EVENT).items
        events = sorted((each for each in told if each["involvedObject"].get("uid") == pod.uid), key=when)
    if not pod.node:
        return scheduling(pod, events).detail
    if pod.waiting is not None and pod.waiting.word != "PodInitializing":
        return starting(pod, pod.waiting, events)[1].detail
    if pod.running:
        return f"vLLM loads the base on {pod.node}"
    return f"the adapter is fetched and verified on {pod.node}"
