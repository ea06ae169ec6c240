"""What a run file must say, and must not, for its run to be possible in a cluster.

Pods see nothing of the user's own machine, and Kubernetes has rules for names; all of it is told at once,
before anything is asked of the cloud.
"""

from __future__ import annotations

from collections.abc import Iterator

from packtrain.config import ClusterConfig, RunConfig, source_names
from packtrain.errors import ConfigError
from packtrain.plan.machines import Machine, machine, price_per_hour


def check_for_cluster(config: RunConfig) -> None:
    """Raises :class:`ConfigError` with a sentence for each thing that does not fit."""
    cluster = config.cluster
    known = machine(cluster.machine)
    problems = [*_places(config), *_capacity(cluster, known)]
    if cluster.nodes > 1:
        problems += _several(config, known)
    if problems:
        raise ConfigError("\n".join(problems))


def _places(config: RunConfig) -> Iterator[str]:
    if config.output.uri is None or not config.output.uri.startswith("gs://"):
        yield "output.uri: is needed for a run in a cluster, in a bucket: gs://BUCKET/PREFIX"
    if config.output.run_uri is not None and not config.output.run_uri.startswith("gs://"):
        yield f"output.run_uri: {config.output.run_uri} is a folder of this machine; use gs://BUCKET/PREFIX"
    reached = "which pods do not see"
    if _is_local(config.model.source):
        yield (
            f"model.source: {config.model.source} is on this machine, {reached}; copy it to the bucket "
            "(gcloud storage cp -r) and name it gs://BUCKET/PREFIX, or use a Hugging Face id"
        )
    template = config.model.chat_template
    if template is not None and _is_local(template):
        yield f"model.chat_template: {template} is on this machine, {reached}; put the template itself here"
    for key, value in (("train", config.data.train), ("validation", config.data.validation)):
        for source in source_names(value):
            if _is_local(source):
                yield (
                    f"data.{key}: {source} is on this machine, {reached}; copy it to the bucket "
                    "(gcloud storage cp) and name it gs://BUCKET/NAME, or use a Hugging Face id"
                )


def _is_local(value: str) -> bool:
    """A run file that was read has its local paths absolute."""
    is_text = "\n" in value or "{{" in value or "{%" in value
    return not is_text and value.startswith(("/", "./", "../", "~"))


def _capacity(cluster: ClusterConfig, known: Machine) -> Iterator[str]:
    if cluster.capacity == "queued" and not cluster.queue:
        yield "cluster.queue: is needed with cluster.capacity: queued: the LocalQueue that asks for nodes"
    if cluster.capacity == "reservation" and not cluster.reservation:
        yield "cluster.reservation: is needed with cluster.capacity: reservation"
    if cluster.capacity != "reservation" and cluster.reservation:
        yield (
            f"cluster.reservation: {cluster.reservation} is not used with cluster.capacity: "
            f"{cluster.capacity}; set capacity: reservation, or remove it"
        )
    if cluster.max_cost is not None and price_per_hour(known, cluster.capacity, cluster.location).usd is None:
        yield (
            f"cluster.max_cost: cannot be kept: packtrain has no list price of {known.name} with capacity "
            f"{cluster.capacity}; remove it, and watch the cost yourself"
        )


def _several(config: RunConfig, known: Machine) -> Iterator[str]:
    cluster = config.cluster
    if cluster.host_network and not known.tcpxo:
        yield "cluster.host_network: is only for several a3-megagpu-8g; remove it"
    if config.name[0].isdigit():
        # The JobSet's Service has its name, and a Service's name begins with a letter.
        yield f"name: {config.name} begins with a digit; with several nodes it has to begin with a letter"
