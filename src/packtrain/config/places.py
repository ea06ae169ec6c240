"""`output:` and `cluster:` where the results go, and where a run is carried out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from packtrain.config.base import DNS_LABEL, Money, Section


class OutputConfig(Section):
    uri: str | None = None
    """Where the verified adapter goes: `gs://BUCKET/PREFIX` or a folder. Default: it stays in the
    run's folder."""
    run_uri: str | None = None
    """Where checkpoints, events and the lock go. Default for a bucket:
    `gs://BUCKET/packtrain/NAME/RUN_ID/`; for a folder the run's folder itself."""


class ClusterConfig(Section):
    project: str | None = None
    """Google Cloud project id."""
    location: str | None = None
    """Region or zone of the cluster."""
    name: str | None = None
    """The GKE cluster."""
    namespace: str = Field(default="default", pattern=DNS_LABEL)
    """Kubernetes namespace. Whoever may make pods there has the rights of the service account."""
    service_account: str = Field(default="packtrain", pattern=DNS_LABEL)
    """Kubernetes service account with the right to the bucket."""
    machine: str = "a3-megagpu-8g"
    """Machine type of a node."""
    nodes: int = Field(default=1, ge=1)
    """Nodes of a run."""
    capacity: Literal["on-demand", "spot", "flex-start", "queued", "reservation"] = "spot"
    """How the nodes are bought."""
    reservation: str | None = None
    """The reservation's name, with `capacity: reservation`."""
    queue: str | None = None
    """Kueue's LocalQueue."""
    node_pool: str | None = None
    """The GKE node pool. Default: any that has the machine; with `capacity: queued` or `reservation`
    the one that `packtrain cloud setup` makes."""
    host_network: bool = False
    """Several nodes: pods on the node's own network. Only where GPUDirect-TCPXO does not work without."""
    image: str | None = None
    """Container image; resolved to a digest at submit. Default: made from packtrain's version."""
    staged: str | None = None
    """Where `packtrain stage` has put copies of the base and the data: pods read them there, and do not
    ask the hub. The run file has to name the staged commits (`model.revision`, `data.revision`)."""
    max_cost: Money | None = None
    """The run stops with a checkpoint when it has cost this much, such as `200 USD`."""
