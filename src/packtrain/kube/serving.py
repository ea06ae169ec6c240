"""``packtrain serve``: the Deployment and Service made in the cluster, until vLLM answers, or removed."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from packtrain.artifacts.receipt import RECEIPT, Receipt
from packtrain.config import RunConfig
from packtrain.errors import AccessError, ConfigError, PacktrainError, UnavailableError, UsageError
from packtrain.kube import observe
from packtrain.kube.api import DEPLOYMENT, EVENT, POD, SERVICE, Cluster, Object
from packtrain.kube.cost import node_price
from packtrain.kube.names import selector, serve_name
from packtrain.kube.observe import Say, sit_out
from packtrain.kube.pod import FLEX_START, INSTANCE_TYPE, SPOT
from packtrain.kube.pod_facts import read_pod
from packtrain.kube.reasons import CREATE, POOL, Why, first_match, scheduling, starting, when
from packtrain.kube.serve import SERVE, STARTING, Buyable, Serving, check_servable, render_serve
from packtrain.kube.serve_room import check, choose, sentence, served_of
from packtrain.plan.machines import machine
from packtrain.storage import open_storage


@dataclass(frozen=True)
class Waiting:
    """How often it is looked at, and how long what is stuck is waited for. Seconds."""

    every: float = 5.0
    longest: float = STARTING
    stuck: float = 600.0
    """What does not pass by itself is waited for so long: a crash may have been the network's."""


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
                hint="--machine TYPE names one"
                + ("" if config.model.source.startswith("gs://") else "; packtrain plan RUN brings it"),
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

        try:
            return read_base(config, lambda _: None).config
        except PacktrainError as error:
            error.hint = "; ".join(filter(None, (error.hint, "or name the machine: --machine TYPE")))
            raise
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
    name, said = serve_name(config.name), ""
    begun = hung = time.monotonic()
    while True:
        deployment = sit_out(lambda: cluster.get(DEPLOYMENT, name), say, observe.PACE)
        if deployment is None:
            raise ConfigError(f"the Deployment {name} is not in {cluster.name} any more")
        if _answers(deployment):
            return
        why = sit_out(partial(_standing, cluster, config, deployment), say, observe.PACE)
        now = f"{why.detail}; {why.hint}" if why.hint else why.detail
        if now != said:
            say(now)
            said = now
        moment = time.monotonic()
        hung = hung if why.stuck else moment
        if moment - begun > waiting.longest or moment - hung > waiting.stuck:
            raise UnavailableError(
                f"{name} does not answer after {(moment - begun) / 60:.0f} minutes: {why.detail}",
                hint=f"kubectl --namespace {cluster.namespace} logs deployment/{name} --all-containers; "
                "packtrain serve RUN --stop removes it",
            )
        time.sleep(waiting.every)


def _answers(deployment: Object) -> bool:
    """A pod of this very specification is ready: an older one may still be counted."""
    status = deployment.get("status") or {}
    seen = int(status.get("observedGeneration") or 0) >= int(deployment["metadata"].get("generation") or 0)
    return seen and bool(status.get("updatedReplicas")) and bool(status.get("availableReplicas"))


def _standing(cluster: Cluster, config: RunConfig, deployment: Object) -> Why:
    """What the newest pod waits for."""
    pods = cluster.list(POD, selector(config.name, SERVE)).items
    living = [each for each in pods if "deletionTimestamp" not in each["metadata"]]
    if not living:
        return _unmade(deployment)
    newest = max(living, key=lambda each: str(each["metadata"].get("creationTimestamp", "")))
    pod, events = read_pod(newest), list[Object]()
    with suppress(AccessError):
        told = cluster.list(EVENT).items
        events = sorted((each for each in told if each["involvedObject"].get("uid") == pod.uid), key=when)
    if not pod.node:
        return _with_pool(scheduling(pod, events), newest)
    if pod.waiting is not None and pod.waiting.word != "PodInitializing":
        why = starting(pod, pod.waiting, events)[1]
        return replace(why, hint=None)  # which is about runs: `packtrain logs` knows no Deployment
    if pod.running:
        return Why(f"vLLM loads the base on {pod.node}")
    return Why(f"the adapter is fetched and verified on {pod.node}")


def _unmade(deployment: Object) -> Why:
    """Why there is no pod: what the Deployment says of its ReplicaSet."""
    for each in (deployment.get("status") or {}).get("conditions") or []:
        if each.get("type") == "ReplicaFailure" and each.get("status") == "True":
            message = " ".join(str(each.get("message") or "").split())
            return first_match(CREATE, message) or Why(f"its pod cannot be made: {message}")
    return Why("waits for its pod to be made")


def _with_pool(why: Why, pod: Object) -> Why:
    """Where no node is of the kind, the command that makes a pool of this one, which is not the run's."""
    wanted = (pod.get("spec") or {}).get("nodeSelector") or {}
    if why.hint != POOL or INSTANCE_TYPE not in wanted:
        return why
    bought = "spot" if SPOT in wanted else "flex-start" if FLEX_START in wanted else "on-demand"
    keys = f"-s cluster.machine={wanted[INSTANCE_TYPE]} -s cluster.nodes=1 -s cluster.capacity={bought}"
    return replace(why, hint=f"{POOL.replace(' makes', f' {keys} makes')}")
