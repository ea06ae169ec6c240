"""Rules on node pools with GPUs, as ``gcloud container node-pools describe --format=json`` prints them."""

from __future__ import annotations

from collections.abc import Iterator

from packtrain.kube.doctor import sources
from packtrain.kube.doctor.gcloud import NodePool
from packtrain.kube.doctor.rule import Problem, rule
from packtrain.kube.fabrics import TCPXO, fabric_of


@rule(
    NodePool,
    "PT901",
    "error",
    "A GPU machine with several network cards, without gVNIC",
    source=sources.TCPXO,
    fix="Make the pool with --enable-gvnic.",
)
def gvnic(pool: NodePool) -> Iterator[Problem]:
    machine = pool.machine
    if machine is not None and machine.gpu_nics and not pool.config.at("gvnic", "enabled").is_true:
        yield (
            pool.config["gvnic"],
            f"{machine.name} needs the network card gVNIC, and the pool does not enable it",
        )


@rule(
    NodePool,
    "PT902",
    "error",
    "Pods have the node's identity",
    source=sources.WORKLOAD_IDENTITY,
    fix="gcloud container node-pools update POOL --workload-metadata=GKE_METADATA",
)
def workload_metadata(pool: NodePool) -> Iterator[Problem]:
    mode = pool.config.at("workloadMetadataConfig", "mode")
    if pool.has_gpus and mode.text != "GKE_METADATA":
        yield (
            mode,
            f"workload metadata is {mode.text or 'not set'}: Workload Identity does not reach the pods",
        )


@rule(
    NodePool,
    "PT903",
    "error",
    "Not the networks of the machine's GPU cards",
    source=sources.TCPXO_ISSUE,
    fix="Make the pool with one --additional-node-network for each card (a3-highgpu-8g four, a3-megagpu-8g "
    "eight; with RDMA a second gVNIC and eight); with none if no job has several nodes.",
)
def networks_of_cards(pool: NodePool) -> Iterator[Problem]:
    machine = pool.machine
    fabric = fabric_of(machine) if machine is not None else None
    if machine is None or fabric is None:
        return
    found = [(entry["network"].text, entry["subnetwork"].text) for entry in pool.networks]
    wanted = len(fabric.cards)
    if found and len(found) != wanted:
        ninth = fabric is TCPXO and len(found) > wanted
        more = ": with a ninth, the receive daemon sees 7 of 8 GPUs" if ninth else ""
        yield pool.networks, f"{len(found)} additional networks, and {machine.name} has {wanted} cards{more}"
    elif len(set(found if fabric.zonal else [network for network, _ in found])) < len(found):
        yield pool.networks, "two of the additional networks are the same"


@rule(
    NodePool,
    "PT904",
    "warning",
    "Local SSDs that nothing uses",
    source=sources.LOCAL_SSD,
    fix="Make the pool with --ephemeral-storage-local-ssd=count=N, N being all that the machine has.",
)
def local_ssds(pool: NodePool) -> Iterator[Problem]:
    machine = pool.machine
    if machine is None or not machine.bundled_ssds:
        return
    ephemeral = pool.config["ephemeralStorageLocalSsdConfig"]
    raw = pool.config.at("localNvmeSsdBlockConfig", "localSsdCount").integer or 0
    count = ephemeral["localSsdCount"].integer or ephemeral["dataCacheCount"].integer or 0
    if not raw and count != machine.local_ssds:
        yield (
            ephemeral,
            f"{machine.name} comes with {machine.local_ssds} local SSDs, and {count} are for the pods' files",
        )


@rule(
    NodePool,
    "PT905",
    "warning",
    "Nobody installs the GPU driver",
    source=sources.GPUS,
    fix="Make the pool with gpu-driver-version=LATEST (or DEFAULT) in --accelerator.",
)
def driver(pool: NodePool) -> Iterator[Problem]:
    for gpu in pool.gpus:
        version = gpu.at("gpuDriverInstallationConfig", "gpuDriverVersion")
        if version.text not in ("LATEST", "DEFAULT"):
            yield (
                version,
                f"the driver's version is {version.text or 'not set'}: without a DaemonSet, no GPUs",
            )


@rule(
    NodePool,
    "PT906",
    "error",
    "Accelerator and machine do not agree",
    source=sources.GPU_MACHINES,
    fix="Make the pool with the accelerator and the count that the machine has.",
)
def accelerator(pool: NodePool) -> Iterator[Problem]:
    machine = pool.machine
    for gpu in pool.gpus if machine is not None else ():
        kind, count = gpu["acceleratorType"], gpu["acceleratorCount"]
        assert machine is not None
        if kind.text and kind.text != machine.accelerator:
            yield kind, f"{machine.name} has {machine.accelerator}, not {kind.text}"
        elif count.integer is not None and count.integer != machine.gpus:
            yield count, f"{machine.name} has {machine.gpus} GPUs, not {count.integer}"


@rule(
    NodePool,
    "PT907",
    "error",
    "An image without what GPUDirect-TCPXO needs",
    source=sources.TCPXO,
    fix="Make the pool with --image-type=COS_CONTAINERD.",
)
def image_type(pool: NodePool) -> Iterator[Problem]:
    image = pool.config["imageType"]
    if pool.machine is not None and pool.machine.tcpxo and image.text and image.text != "COS_CONTAINERD":
        yield image, f"nodes run {image.text}; {pool.machine.name} needs COS_CONTAINERD for GPUDirect-TCPXO"


@rule(
    NodePool,
    "PT908",
    "warning",
    "Nodes with the project's default account",
    source=sources.HARDENING,
    fix="Make the pool with a service account of its own that has roles/container.defaultNodeServiceAccount "
    "and roles/artifactregistry.reader.",
)
def node_account(pool: NodePool) -> Iterator[Problem]:
    account = pool.config["serviceAccount"]
    is_default = account.text == "default" or account.text.endswith("-compute@developer.gserviceaccount.com")
    if pool.has_gpus and is_default:
        yield account, "the nodes have Compute Engine's default account, which often is editor of the project"


@rule(
    NodePool,
    "PT909",
    "error",
    "Nodes that may not pull images",
    source=sources.HARDENING,
    fix="Make the pool with --scopes=cloud-platform and limit the account by roles.",
)
def scopes(pool: NodePool) -> Iterator[Problem]:
    found = [scope.text.rpartition("/")[2] for scope in pool.config["oauthScopes"]]
    enough = {"cloud-platform", "cloud-platform.read-only"}
    enough |= {f"devstorage.{right}" for right in ("read_only", "read_write", "full_control")}
    if pool.has_gpus and found and not enough.intersection(found):
        yield pool.config["oauthScopes"], "none of the nodes' scopes lets them read Artifact Registry"


@rule(
    NodePool,
    "PT910",
    "warning",
    "A node pool that is not well",
    source=sources.NODE_POOL,
    fix="Read the message; `gcloud container operations list` has more.",
)
def status(pool: NodePool) -> Iterator[Problem]:
    state, message = pool.node["status"], pool.node["statusMessage"].text
    if state.text in ("ERROR", "RUNNING_WITH_ERROR"):
        why = message or "; ".join(each["message"].text for each in pool.node["conditions"])
        yield state, f"the pool is {state.text}" + (f": {' '.join(why.split())[:200]}" if why else "")


RULES = (
    gvnic,
    workload_metadata,
    networks_of_cards,
    local_ssds,
    driver,
    accelerator,
    image_type,
    node_account,
    scopes,
    status,
)
