"""Bad weather: what gcloud and kubectl say, as one sentence with the exit code and the next step.

Messages are the real programs' (gcloud 528, kubectl 1.27 to 1.33); see test_real_gcloud.py for those that
are provoked anew in every run of the tests.
"""

from __future__ import annotations

import pytest

from packtrain.errors import (
    AccessError,
    ConfigError,
    ConflictError,
    GateError,
    PacktrainError,
    UnavailableError,
)
from packtrain.gcp.ask import Remembering, ask, checked
from packtrain.gcp.commands import Command, Finished
from packtrain.gcp.errors import explain, is_absent, passes_when_new
from packtrain.gcp.permissions import NEEDED, PERMISSION, role_for

GCLOUD = Command(("gcloud", "storage", "buckets", "create", "gs://b", "--project=my-project"))
KUBECTL = Command(("kubectl", "apply", "--server-side"))

CASES: list[tuple[str, Command, str, type[PacktrainError], str, str]] = [
    (
        "not logged in",
        GCLOUD,
        "ERROR: (gcloud.storage.buckets.create) You do not currently have an active account selected.\n"
        "Please run:\n\n  $ gcloud auth login\n",
        AccessError,
        "gcloud is not logged in",
        "gcloud auth login",
    ),
    (
        "login expired",
        GCLOUD,
        "ERROR: (gcloud.x) There was a problem refreshing your current auth tokens: Reauthentication failed. "
        "cannot prompt during non-interactive execution.",
        AccessError,
        "is not accepted any more",
        "gcloud auth login",
    ),
    (
        "401",
        GCLOUD,
        "ERROR: (gcloud.x) UNAUTHENTICATED: Request had invalid authentication credentials. Expected OAuth 2",
        AccessError,
        "is not accepted any more",
        "gcloud auth login",
    ),
    (
        "wrong project",
        GCLOUD,
        "ERROR: (gcloud.projects.describe) [me@x.y] does not have permission to access projects instance "
        "[my-projekt] (or it may not exist): The caller does not have permission.",
        AccessError,
        "the project my-projekt is not there, or the account that gcloud uses may not see it",
        "cluster.project",
    ),
    (
        "right to make a bucket",
        GCLOUD,
        "ERROR: (gcloud.storage.buckets.create) HTTPError 403: me@x.y does not have storage.buckets.create "
        "access to the Google Cloud project. Permission 'storage.buckets.create' denied on resource "
        "(or it may not exist).",
        AccessError,
        "the permission storage.buckets.create is missing in project my-project",
        "roles/storage.admin; an Owner or a Project IAM Admin of the project can give it",
    ),
    (
        "right to bind",
        Command(("gcloud", "storage", "buckets", "add-iam-policy-binding", "gs://b")),
        "ERROR: (gcloud.storage.buckets.add-iam-policy-binding) HTTPError 403: me@x.y does not have "
        "storage.buckets.setIamPolicy access to the Google Cloud Storage bucket.",
        AccessError,
        "the permission storage.buckets.setIamPolicy is missing on gs://b",
        "roles/storage.admin",
    ),
    (
        "bucket of somebody else, that is looked at",
        Command(("gcloud", "storage", "buckets", "describe", "gs://b", "--format=json")),
        "ERROR: (gcloud.storage.buckets.describe) HTTPError 403: me@x.y does not have storage.buckets.get "
        "access to the Google Cloud Storage bucket. Permission 'storage.buckets.get' denied on resource "
        "(or it may not exist). This command is authenticated as me@x.y.",
        AccessError,
        "gs://b is somebody else's bucket",
        "choose another bucket in output.uri; or, if it is yours: it is in roles/storage.admin",
    ),
    (
        "right on a cluster",
        GCLOUD,
        "ERROR: (gcloud.container.clusters.describe) ResponseError: code=403, message=Required "
        '"container.clusters.get" permission(s) for "projects/p/locations/l/clusters/c".',
        AccessError,
        "the permission container.clusters.get is missing",
        "roles/container.admin",
    ),
    (
        "right on a service account",
        GCLOUD,
        "ERROR: (gcloud.iam.service-accounts.create) PERMISSION_DENIED: Permission "
        "'iam.serviceAccounts.create' denied on resource (or it may not exist).",
        AccessError,
        "the permission iam.serviceAccounts.create is missing",
        "roles/iam.serviceAccountAdmin",
    ),
    (
        "a refusal that names no permission",
        GCLOUD,
        "ERROR: (gcloud.x) PERMISSION_DENIED: Request is prohibited by organization's policy.",
        AccessError,
        "is refused: PERMISSION_DENIED: Request is prohibited",
        "an Owner",
    ),
    (
        "API off",
        GCLOUD,
        "ERROR: (gcloud.artifacts.repositories.describe) PERMISSION_DENIED: Artifact Registry API "
        "has not been "
        "used in project 123 before or it is disabled. Enable it by visiting "
        "https://console.developers.google"
        ".com/apis/api/artifactregistry.googleapis.com/overview?project=123 then retry.\n- '@type': type."
        "googleapis.com/google.rpc.ErrorInfo\n  reason: SERVICE_DISABLED",
        ConfigError,
        "the service artifactregistry.googleapis.com is not enabled in the project my-project",
        "gcloud services enable artifactregistry.googleapis.com --project=my-project",
    ),
    (
        "no billing",
        GCLOUD,
        "ERROR: (gcloud.services.enable) FAILED_PRECONDITION: Billing account for project '123' is "
        "not found. "
        "Billing must be enabled for activation of service(s) 'container.googleapis.com' to proceed.",
        ConfigError,
        "the project my-project has no billing account",
        "console.cloud.google.com/billing",
    ),
    (
        "quota 0",
        GCLOUD,
        "ERROR: (gcloud.container.node-pools.create) ResponseError: code=403, message=Insufficient regional "
        "quota to satisfy request: resource \"NVIDIA_H100_MEGA_GPUS\": request requires '8.0' and is short "
        "'8.0'. project has a quota of '0.0' with '0.0' available.",
        GateError,
        "the quota NVIDIA_H100_MEGA_GPUS of project my-project is used up (limit 0.0)",
        "console.cloud.google.com/iam-admin/quotas?project=my-project",
    ),
    (
        "quota of networks",
        GCLOUD,
        "ERROR: (gcloud.compute.networks.create) Could not fetch resource:\n - Quota 'NETWORKS' exceeded.  "
        "Limit: 5.0 globally.",
        GateError,
        "the quota NETWORKS of project my-project is used up (limit 5.0)",
        "iam-admin/quotas",
    ),
    (
        "too many requests",
        GCLOUD,
        "ERROR: (gcloud.x) RESOURCE_EXHAUSTED: Quota exceeded for quota metric 'Read requests' and limit "
        "'Read requests per minute' of service 'x'. reason: RATE_LIMIT_EXCEEDED",
        UnavailableError,
        "too many requests at once",
        "goes on where it stopped",
    ),
    (
        "bucket of somebody else",
        GCLOUD,
        "ERROR: (gcloud.storage.buckets.create) HTTPError 409: The requested bucket name is not "
        "available. The "
        "bucket namespace is shared by all users of the system. Please select a different name and "
        "try again.",
        ConflictError,
        "the name of the bucket is taken by somebody else",
        "output.uri",
    ),
    (
        "name taken",
        Command(("gcloud", "iam", "service-accounts", "create", "x")),
        "ERROR: (gcloud.iam.service-accounts.create) Resource in projects [p] is the subject of a conflict: "
        "Service account x already exists within project projects/p.",
        ConflictError,
        "gcloud iam service-accounts create: the name is taken",
        "looks at what is there",
    ),
    (
        "machine not there",
        GCLOUD,
        "ERROR: (gcloud.container.node-pools.create) ResponseError: code=400, message=Machine type with name "
        "'a3-megagpu-8g' does not exist in zone 'us-central1-f'.",
        ConfigError,
        "the machine or its GPU is not there",
        "--zone ZONE",
    ),
    (
        "no capacity",
        GCLOUD,
        "ERROR: (gcloud.x) The zone 'projects/p/zones/z' does not have enough resources available to fulfill "
        "the request. 'ZONE_RESOURCE_POOL_EXHAUSTED'",
        UnavailableError,
        "has none of these machines free",
        "flex-start",
    ),
    (
        "no workload pool",
        GCLOUD,
        "ERROR: (gcloud.x) INVALID_ARGUMENT: Identity Pool does not exist (my-project.svc.id.goog). "
        "Please check "
        "that you specified a valid resource name as returned in the `name` attribute",
        ConfigError,
        "no workload identity pool",
        "--workload-pool=my-project.svc.id.goog",
    ),
    (
        "organization policy",
        GCLOUD,
        "ERROR: (gcloud.x) HTTPError 412: 'us-central1' violates constraint "
        "'constraints/gcp.resourceLocations'",
        AccessError,
        "policy constraints/gcp.resourceLocations forbids",
        "--dry-run",
    ),
    (
        "somebody else's change",
        GCLOUD,
        "ERROR: (gcloud.x) ABORTED: There were concurrent policy changes. Please retry the whole "
        "read-modify-write with exponential backoff.",
        UnavailableError,
        "somebody changed the same rights",
        "same command",
    ),
    (
        "500",
        GCLOUD,
        "ERROR: (gcloud.x) HTTPError 500: backendError",
        UnavailableError,
        "error of its own",
        "again",
    ),
    (
        "503",
        GCLOUD,
        "ERROR: (gcloud.x) ResponseError: code=503, message=The service is unavailable.",
        UnavailableError,
        "error of its own",
        "again",
    ),
    (
        "no network",
        GCLOUD,
        "ERROR: gcloud crashed (ConnectionError): HTTPSConnectionPool(host='storage.googleapis.com', "
        "port=443): "
        "Max retries exceeded with url: /x (Caused by NewConnectionError('Failed to establish a new "
        "connection: [Errno 101] Network is unreachable'))",
        UnavailableError,
        "Google Cloud is not reached",
        "the proxy",
    ),
    (
        "auth plugin missing",
        KUBECTL,
        "Unable to connect to the server: getting credentials: exec: executable "
        "gke-gcloud-auth-plugin not found",
        ConfigError,
        "kubectl lacks gke-gcloud-auth-plugin",
        "gcloud components install gke-gcloud-auth-plugin",
    ),
    (
        "API server 401",
        KUBECTL,
        "error: You must be logged in to the server (Unauthorized)",
        AccessError,
        "the cluster does not accept gcloud's login",
        "gcloud auth login",
    ),
    (
        "API server 403",
        KUBECTL,
        'Error from server (Forbidden): namespaces is forbidden: User "me@x.y" cannot create resource '
        '"namespaces" in API group "" at the cluster scope: requires one of ["container.namespaces.create"] '
        "permission(s).",
        AccessError,
        "no right to create namespaces in the cluster",
        "roles/container.developer",
    ),
    (
        "API server 403 that says nothing",
        KUBECTL,
        "Error from server (Forbidden): unknown",
        AccessError,
        "kubectl apply is refused",
        "it is in roles/container.developer",
    ),
    (
        "API server 409",
        KUBECTL,
        'error: Apply failed with 1 conflict: conflict with "argocd" using v1: '
        ".automountServiceAccountToken\n"
        "Please review the fields above--they currently have other managers.",
        ConflictError,
        'changed by somebody else: conflict with "argocd"',
        "changes nothing that others look after",
    ),
    (
        "API server 429",
        KUBECTL,
        "Error from server (TooManyRequests): too many requests",
        UnavailableError,
        "too many requests",
        "again",
    ),
    (
        "API server 500",
        KUBECTL,
        "Error from server (InternalError): an error on the server has prevented the request from succeeding",
        UnavailableError,
        "kubectl apply: the cluster answers with an error of its own",
        "again",
    ),
    (
        "API server away",
        KUBECTL,
        "The connection to the server 10.0.0.1:443 was refused - did you specify the right host or port?",
        UnavailableError,
        "API server does not answer: 10.0.0.1:443",
        "private cluster",
    ),
    (
        "API server slow",
        KUBECTL,
        "Unable to connect to the server: net/http: TLS handshake timeout",
        UnavailableError,
        "API server does not answer",
        "private cluster",
    ),
    (
        "certificate",
        KUBECTL,
        "Unable to connect to the server: tls: failed to verify certificate: x509: certificate "
        "signed by unknown "
        "authority",
        AccessError,
        "certificate is not the one that is expected",
        "packtrain cloud setup RUN",
    ),
    (
        "kubeconfig missing",
        KUBECTL,
        "error: current-context is not set",
        ConfigError,
        "the kubeconfig is missing or damaged",
        "PACKTRAIN_KUBECONFIG",
    ),
    (
        "kubeconfig that is not there",
        KUBECTL,
        'E1124 14:30:00 1 memcache.go:265] "Unhandled Error" err="couldn\'t get API group list"\n'
        "The connection to the server localhost:8080 was refused - did you specify the right host or port?",
        ConfigError,
        "the kubeconfig is missing or damaged",
        "PACKTRAIN_KUBECONFIG",
    ),
    (
        "no multi-networking",
        KUBECTL,
        'error: resource mapping not found for name: "vpc1" namespace: "" from "STDIN": no matches for kind '
        '"GKENetworkParamSet" in version "networking.gke.io/v1"',
        ConfigError,
        "does not know the kind GKENetworkParamSet",
        "--enable-multi-networking",
    ),
    (
        "anything else",
        GCLOUD,
        "ERROR: (gcloud.x) a new thing\n",
        ConfigError,
        "failed: a new thing",
        "the command",
    ),
    ("nothing", GCLOUD, "", ConfigError, "failed: no message", "the command was: gcloud storage"),
]


@pytest.mark.parametrize(
    ("command", "text", "kind", "sentence", "hint"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_bad_weather_is_one_sentence_with_the_next_step(
    command: Command, text: str, kind: type[PacktrainError], sentence: str, hint: str
) -> None:
    error = explain(command, Finished(1, "", text))
    assert type(error) is kind
    assert sentence in str(error)
    assert hint in str(error.hint)
    assert "\n" not in str(error)
    assert "{" not in str(error) + str(error.hint)
    assert len(str(error)) < 400


ABSENT = [
    "ERROR: (gcloud.storage.buckets.describe) gs://my-bucket not found: 404.",
    "ERROR: (gcloud.artifacts.repositories.describe) NOT_FOUND: Requested entity was not found.",
    "ERROR: (gcloud.container.clusters.describe) ResponseError: code=404, message=Not found: projects/p.",
    "ERROR: (gcloud.compute.networks.delete) Could not fetch resource:\n - The resource "
    "'projects/p/global/networks/n' was not found",
    'Error from server (NotFound): namespaces "x" not found',
]


@pytest.mark.parametrize("text", ABSENT)
def test_what_is_not_there_is_none_and_no_error(text: str) -> None:
    assert is_absent(Finished(1, "", text))


@pytest.mark.parametrize("text", [case[2] for case in CASES], ids=[case[0] for case in CASES])
def test_no_failure_looks_like_something_that_is_not_there(text: str) -> None:
    assert not is_absent(Finished(1, "", text))


class Answers:
    def __init__(self, finished: Finished) -> None:
        self.finished = finished

    def run(self, command: Command, *, timeout: float = 1.0) -> Finished:
        return self.finished


def test_questions() -> None:
    assert ask(Answers(Finished(0, '{"a": 1}')), GCLOUD) == {"a": 1}
    assert ask(Answers(Finished(0, " \n")), GCLOUD) is None
    assert ask(Answers(Finished(1, "", ABSENT[0])), GCLOUD) is None
    off = next(case for case in CASES if case[0] == "API off")
    assert ask(Answers(Finished(1, "", off[2])), GCLOUD) is None, "where the service is off, nothing is there"
    assert passes_when_new(Finished(1, "", off[2]))
    with pytest.raises(UnavailableError, match="no JSON"):
        ask(Answers(Finished(0, "<html>")), GCLOUD)
    with pytest.raises(AccessError):
        ask(Answers(Finished(1, "", CASES[0][2])), GCLOUD)
    with pytest.raises(AccessError):
        checked(Answers(Finished(1, "", CASES[0][2])), GCLOUD)


@pytest.mark.parametrize("slow", [False, True], ids=["it says so", "it does not end"])
def test_a_cluster_that_does_not_answer_is_asked_once(slow: bool) -> None:
    class Silent(Answers):
        asked = 0

        def run(self, command: Command, *, timeout: float = 1.0) -> Finished:
            self.asked += 1
            if slow:
                raise UnavailableError("kubectl get did not end within 120 seconds")
            return self.finished

    silent = Silent(Finished(1, "", "Unable to connect to the server: net/http: TLS handshake timeout"))
    memory = Remembering(silent)
    for name in ("a", "b", "a"):
        with pytest.raises(UnavailableError, match=r"answer|did not end"):
            ask(memory, Command(("kubectl", "get", "namespace", name)))
    assert silent.asked == 1
    memory.forget(cluster=False)
    with pytest.raises(UnavailableError):
        ask(memory, Command(("kubectl", "get", "namespace", "a")))
    assert silent.asked == 2, "after a change it is asked anew"


def test_every_needed_permission_has_a_role_and_is_seen_in_a_message() -> None:
    for permission in (each for some in NEEDED.values() for each in some):
        assert role_for(permission), permission
        found = PERMISSION.search(f"Permission '{permission}' denied")
        assert found is not None and found[0] == permission
