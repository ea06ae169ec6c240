"""Where a run file's cluster part leads: project, region, cluster, buckets, accounts, image repository."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from packtrain.config import ClusterConfig, RunConfig, source_names
from packtrain.errors import ConfigError
from packtrain.kube.fabrics import Fabric, fabric_between
from packtrain.kube.names import node_pool
from packtrain.plan.machines import Capacity, Machine, machine
from packtrain.storage.cache import cache_folder

#: Where ``packtrain image build`` puts the image, unless ``cluster.image`` names another repository.
REPOSITORY = "packtrain"
BUCKET_ROLE = "roles/storage.objectUser"
READER_ROLE = "roles/storage.objectViewer"
#: ``$NAME`` in commands for the project's number, which is asked for when they run.
PROJECT_NUMBER = "PROJECT_NUMBER"
#: The same for the account with which Cloud Build builds in the project.
BUILD_ACCOUNT = "BUILD_ACCOUNT"
#: The same for the nodes' zone, where the run file and the options name none: the user's to fill in.
ZONE = "ZONE"

_SHAPES = {
    # https://cloud.google.com/resource-manager/docs/creating-managing-projects (older ones: domain:id)
    "project": r"(?:[a-z][a-z0-9.-]*:)?[a-z][a-z0-9-]{4,28}[a-z0-9]",
    "location": r"[a-z]+-[a-z]+[0-9]+(?:-[a-z])?",
    "name": r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?",
    "node_pool": r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?",
}
_OPTIONAL = {"node_pool"}
_ALLOWED = {
    "project": "a project's id, such as my-project-1 (not its name or number)",
    "location": "a region such as us-central1, or a zone such as us-central1-a",
    "name": "a cluster's name: at most 40 of a-z, 0-9 and -, a letter first",
    "node_pool": "a node pool's name: at most 40 of a-z, 0-9 and -, a letter first",
}
_IMAGE = re.compile(r"(?P<region>[a-z0-9-]+)-docker\.pkg\.dev/(?P<project>[^/]+)/(?P<name>[^/:@]+)/.+")
_ACCOUNT = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")


@dataclass(frozen=True)
class Repository:
    """A Docker repository in Artifact Registry."""

    region: str
    project: str
    name: str

    @property
    def flags(self) -> tuple[str, ...]:
        return (f"--location={self.region}", f"--project={self.project}")


@dataclass(frozen=True)
class Site:
    project: str
    location: str
    cluster: str
    namespace: str
    service_account: str
    buckets: tuple[str, ...]
    """Written to by the run."""
    sources: tuple[str, ...]
    """Only read by the run."""
    repository: Repository | None
    """None where ``cluster.image`` is in a registry that is not Google's."""
    builds: bool
    """Images are built into the repository: ``cluster.image`` names none by its digest."""
    machine: Machine
    nodes: int
    capacity: Capacity
    pool: str
    """Name of the pool that has the GPUs."""
    pool_by_name: bool
    """The pods ask for this pool, not for any that fits."""
    reservation: str | None
    queue: str | None

    @property
    def region(self) -> str:
        return re.sub(r"-[a-z]$", "", self.location)

    @property
    def workload_pool(self) -> str:
        return f"{self.project}.svc.id.goog"

    @property
    def principal(self) -> str:
        """The Kubernetes service account as a member of IAM policies: number in the path, id in the pool."""
        return (
            f"principal://iam.googleapis.com/projects/${PROJECT_NUMBER}/locations/global/workloadIdentityPools/"
            f"{self.workload_pool}/subject/ns/{self.namespace}/sa/{self.service_account}"
        )

    @property
    def google_account(self) -> str:
        """The IAM service account of the classical way."""
        if not _ACCOUNT.fullmatch(self.service_account):
            raise ConfigError(
                f"cluster.service_account: {self.service_account} cannot be the name of an IAM service"
                " account: 6 to 30 of a-z, 0-9 and -",
                hint="use a longer or shorter name, or leave out --via-service-account",
            )
        return f"{self.service_account}@{self.project}.iam.gserviceaccount.com"

    @property
    def build_bucket(self) -> str:
        """Where ``gcloud builds submit`` puts what is built; the name is gcloud's."""
        return re.sub("[:.]", "_", self.project).replace("google", "elgoog") + "_cloudbuild"

    @property
    def in_project(self) -> str:
        return f"--project={self.project}"

    @property
    def at_cluster(self) -> tuple[str, ...]:
        return (f"--location={self.location}", self.in_project)

    @property
    def fabric(self) -> Fabric | None:
        """What connects the GPUs of several nodes, where that takes networks of their own."""
        return fabric_between(self.machine, self.nodes)

    @property
    def kubeconfig(self) -> Path:
        """packtrain's own; the user's current context is never looked at."""
        return cache_folder() / "kubeconfig" / f"{self.project}_{self.location}_{self.cluster}.yaml"


def site_of(config: RunConfig) -> Site:
    """Errors: :class:`ConfigError` with every key that is missing or cannot be."""
    cluster = config.cluster
    problems = [problem for key in _SHAPES if (problem := _problem(cluster, key))]
    buckets = _buckets(config.output.uri, config.output.run_uri)
    if not buckets:
        problems.append("output.uri: is needed for a run in the cloud: gs://BUCKET/PREFIX")
    if cluster.capacity == "reservation" and not cluster.reservation:
        problems.append("cluster.reservation: is needed with cluster.capacity: reservation")
    if problems:
        raise ConfigError("\n".join(problems))
    data = (config.data.train, config.data.validation)
    sources = _buckets(config.model.source, *(each for value in data for each in source_names(value)))
    assert cluster.project and cluster.location and cluster.name
    return Site(
        project=cluster.project,
        location=cluster.location,
        cluster=cluster.name,
        namespace=cluster.namespace,
        service_account=cluster.service_account,
        buckets=buckets,
        sources=tuple(each for each in sources if each not in buckets),
        repository=_repository(cluster),
        builds=_repository(cluster) is not None and "@" not in (cluster.image or ""),
        machine=machine(cluster.machine),
        nodes=cluster.nodes,
        capacity=cluster.capacity,
        pool=cluster.node_pool or node_pool(cluster.machine, cluster.capacity),
        pool_by_name=cluster.node_pool is not None or cluster.capacity in {"queued", "reservation"},
        reservation=cluster.reservation,
        queue=cluster.queue,
    )


def _problem(cluster: ClusterConfig, key: str) -> str | None:
    value = getattr(cluster, key)
    if value is None:
        return (
            None if key in _OPTIONAL else f"cluster.{key}: is needed for a run in the cloud: {_ALLOWED[key]}"
        )
    if not re.fullmatch(_SHAPES[key], value):
        return f"cluster.{key}: {value!r} cannot be: {_ALLOWED[key]}"
    return None


def _repository(cluster: ClusterConfig) -> Repository | None:
    if cluster.image is None:
        assert cluster.location and cluster.project
        return Repository(re.sub(r"-[a-z]$", "", cluster.location), cluster.project, REPOSITORY)
    found = _IMAGE.fullmatch(cluster.image)
    return Repository(found["region"], found["project"], found["name"]) if found else None


def _buckets(*uris: str | None) -> tuple[str, ...]:
    named = [uri.removeprefix("gs://").partition("/")[0] for uri in uris if uri and uri.startswith("gs://")]
    return tuple(dict.fromkeys(named))
