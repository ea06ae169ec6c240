"""What a Kubernetes API server answers, or does not, in our errors: one sentence, and what to do.

The shapes of the answers: https://kubernetes.io/docs/reference/using-api/api-concepts and the Status kind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from packtrain.errors import (
    AccessError,
    ConfigError,
    ConflictError,
    GateError,
    PacktrainError,
    UnavailableError,
)

LOGIN = "run: gcloud auth login, then the same command again"
RIGHTS = (
    "roles/container.developer on the project has it; "
    "an Owner or a Project IAM Admin of the project can give it"
)
PLUGIN = (
    "install it: gcloud components install gke-gcloud-auth-plugin "
    "(Debian: apt-get install google-cloud-cli-gke-gcloud-auth-plugin)"
)
NETWORK = (
    "check the network and the proxy; a private cluster is reached only from networks that it lets in "
    "(gcloud container clusters update --enable-dns-access)"
)
TRY_AGAIN = "try again in a few minutes: the same command goes on where it stopped"
#: What passes by itself, often enough to try again.
PASSING = frozenset({408, 429, 500, 502, 503, 504})
INSTALL = {
    "jobset.x-k8s.io": "JobSet, which several nodes need",
    "kueue.x-k8s.io": "Kueue, which cluster.queue needs",
}
_FORBIDDEN = re.compile(r'cannot (?P<verb>\w+) resource "(?P<resource>[\w./-]+)"')
_NAMED = re.compile(r'"[^"]+" not found')
_NAMESPACE = re.compile(r'namespaces "(?P<name>[^"]+)" not found')


class AlreadyThereError(ConflictError):
    """An object of this name is there."""


class GoneError(UnavailableError):
    """What a watch was to go on from is forgotten (410): list again."""


class NotYetError(UnavailableError):
    """A container has not begun: it has no log."""


class AbsentError(ConfigError):
    """An object, or the container before this one, is not there."""


@dataclass(frozen=True)
class Answer:
    """An answer that is an error: the Status object, or what stood in its place."""

    code: int
    reason: str = ""
    message: str = ""
    retry_after: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, code: int, body: Any, retry_after: str | None = None) -> Answer:
        """``body``: what was parsed of the answer; no Status where a proxy answered."""
        status = body if isinstance(body, dict) else {}
        seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
        return cls(
            code,
            str(status.get("reason") or ""),
            str(status.get("message") or ""),
            seconds,
            status.get("details") or {},
        )


def explain(answer: Answer, cluster: str, what: str) -> PacktrainError:  # noqa: PLR0911  (a return a case)
    """The error for an answer; ``what`` was asked, such as ``create the Job train``."""
    said = answer.message or f"status {answer.code}"
    match answer.code:
        case 400 | 422:
            return _refused(said, cluster, what)
        case 401:
            return AccessError(f"{cluster} does not accept the login (401), asked to {what}", hint=LOGIN)
        case 403:
            return _forbidden(said, cluster, what)
        case 404:
            return _absent(said, cluster, what)
        case 409 if answer.reason == "AlreadyExists":
            return AlreadyThereError(f"{cluster}: {said}")
        case 409:
            return ConflictError(
                f"{cluster}: somebody else changed the same object, asked to {what}: {said}",
                hint="the same command again looks at what is there now",
            )
        case 410:
            return GoneError(
                f"{cluster} has forgotten (410) what it was asked to {what}: {said}", hint=TRY_AGAIN
            )
        case 429:
            return UnavailableError(f"{cluster} has too many requests (429), asked to {what}", hint=TRY_AGAIN)
        case code if code in PASSING:
            return UnavailableError(
                f"{cluster} answers with an error of its own ({code}), asked to {what}: {said}",
                hint=TRY_AGAIN,
            )
    return UnavailableError(f"{cluster} answers {answer.code}, asked to {what}: {said}")


def _refused(said: str, cluster: str, what: str) -> PacktrainError:
    if "is waiting to start" in said:
        return NotYetError(f"{cluster}: {said}")
    if "previous terminated container" in said:
        return AbsentError(f"{cluster}: {said}")
    return ConfigError(f"{cluster} does not take what packtrain sends to {what}: {said}")


def _forbidden(said: str, cluster: str, what: str) -> PacktrainError:
    if "exceeded quota" in said:
        return GateError(
            f"{cluster}: a quota of the namespace forbids to {what}: {said}",
            hint="whoever looks after the cluster set it: kubectl describe resourcequota",
        )
    found = _FORBIDDEN.search(said)
    if found is None:
        return AccessError(f"{cluster} refuses to {what} (403): {said}", hint=RIGHTS)
    right = f"{found['verb']} {found['resource']}"
    return AccessError(f"no right to {right} in {cluster} (403), asked to {what}", hint=RIGHTS)


def _absent(said: str, cluster: str, what: str) -> PacktrainError:
    found = _NAMESPACE.search(said)
    if found is not None:
        return ConfigError(
            f"the namespace {found['name']} is not there in {cluster}",
            hint="packtrain cloud setup RUN makes it, with the service account and the token in it",
        )
    if _NAMED.search(said):
        return AbsentError(f"{cluster}: {said}")
    for group, needed in INSTALL.items():
        if group in what:
            return ConfigError(
                f"{cluster} has no {group}: it is {needed}",
                hint="packtrain cloud check RUN says which version, and the command that installs it",
            )
    return ConfigError(
        f"{cluster} does not know what it is asked to: {what} (404: {said})",
        hint="check PACKTRAIN_KUBECONFIG, or cluster.name and cluster.location: is this the right server?",
    )


def unreachable(error: BaseException, cluster: str, what: str) -> PacktrainError | None:
    """The error for a request that got no answer; None for what is no matter of the network."""
    import httpx2 as httpx

    text = " ".join(str(error).split())
    told = _login(error, cluster, text)
    if told is not None or not isinstance(error, httpx.HTTPError | OSError):
        return told
    if is_tls(error):
        return AccessError(
            f"{cluster} is not who it should be: {text}",
            hint="a proxy may be in between, or the cluster was made anew: run the same command again",
        )
    if isinstance(error, httpx.TimeoutException):
        return UnavailableError(f"{cluster} does not answer in time, asked to {what}", hint=NETWORK)
    refused = "refused the connection" if "refused" in text.lower() else f"cannot be reached ({text})"
    return UnavailableError(f"{cluster} {refused}, asked to {what}", hint=NETWORK)


def _login(error: BaseException, cluster: str, text: str) -> PacktrainError | None:
    """What the kubeconfig's plugin, or its absence, came to."""
    from lightkube.core.exceptions import ConfigError as LightkubeConfigError

    if isinstance(error, FileNotFoundError):
        program = str(error.filename or "").rpartition("/")[2] or "gke-gcloud-auth-plugin"
        return ConfigError(f"{program} is not installed; the login to {cluster} needs it", hint=PLUGIN)
    if isinstance(error, LightkubeConfigError) and "returned" in text:  # the plugin ran
        return AccessError(f"the login to {cluster} failed: {text}", hint=LOGIN)
    if isinstance(error, LightkubeConfigError):
        return ConfigError(f"the kubeconfig of {cluster} cannot be used: {text}")
    return None


def is_tls(error: BaseException) -> bool:
    """Whether it is a matter of certificates, which no new try helps."""
    return bool(re.search(r"certificate|SSL|TLS", str(error)))
