"""What gcloud and kubectl say, in our errors: one sentence, and what to do.

The patterns are of the messages of gcloud 528 and kubectl 1.27 to 1.33; the first that fits counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from packtrain.errors import (
    AccessError,
    ConfigError,
    ConflictError,
    GateError,
    PacktrainError,
    UnavailableError,
)
from packtrain.gcp.commands import Command, Finished, spoken
from packtrain.gcp.permissions import PERMISSION, role_for

GRANTS = "an Owner or a Project IAM Admin of the project can give it"
TRY_AGAIN = "try again in a few minutes: the same command goes on where it stopped"
IN_CLUSTER = "it is in roles/container.developer, with secrets and service accounts in it"
LOGIN = "run: gcloud auth login"
#: How the sentence about an API server that does not answer begins.
SILENT = "the cluster's API server does not answer"


@dataclass(frozen=True)
class Case:
    pattern: re.Pattern[str]
    kind: type[PacktrainError]
    sentence: str
    """With the pattern's named groups, ``what`` (the command) and ``project``."""
    hint: str


def _case(pattern: str, kind: type[PacktrainError], sentence: str, hint: str) -> Case:
    return Case(re.compile(pattern, re.IGNORECASE | re.DOTALL), kind, sentence, hint)


#: Not there, in the words of each program and API; also an API that is off: nothing of it can be there.
ABSENT = re.compile(
    r"not found: 404|NOT_FOUND|code=404|\(NotFound\)|The resource '[^']+' was not found|"
    r"HTTPError 404|bucket does not exist|No cluster named|Image not found"
)
API_OFF = re.compile(
    r"SERVICE_DISABLED|has not been used in project|(?:API|service) \[?[\w.]+\]? (?:is )?not enabled", re.I
)
#: What an earlier step has made may be unknown to other parts of Google Cloud for a minute or two.
_NEW = re.compile(r"Service account \S+ does not exist|Identity Pool does not exist", re.I)
_API = re.compile(r"([a-z]+\.googleapis\.com)")

CASES = (
    _case(
        r"do not currently have an active account|no active account|does not have any valid credentials",
        AccessError,
        "gcloud is not logged in",
        LOGIN,
    ),
    _case(
        r"Reauthentication|problem refreshing your current auth tokens|invalid authentication credentials|"
        r"UNAUTHENTICATED|code=401|HTTPError 401|invalid_grant",
        AccessError,
        "gcloud's login is not accepted any more ({what})",
        LOGIN,
    ),
    _case(
        r"permission to access (?:projects|project) instance \[(?P<name>[^\]]+)\]|"
        r"Project '?(?P<other>[\w:.-]+)'? (?:was )?not found|Unknown project id: (?P<third>[\w-]+)",
        AccessError,
        "the project {name} is not there, or the account that gcloud uses may not see it",
        "check cluster.project and `gcloud config get account`; the right is resourcemanager.projects.get",
    ),
    _case(
        r"BILLING_DISABLED|billing (?:account|to be enabled|must be enabled)|billing is disabled",
        ConfigError,
        "the project {project} has no billing account, or it is closed",
        "link one: https://console.cloud.google.com/billing/linkedaccount?project={project}",
    ),
    _case(
        r"requested bucket name is not available",
        ConflictError,
        "the name of the bucket is taken by somebody else: names are shared by all of Google Cloud",
        "choose another bucket in output.uri",
    ),
    _case(
        r"(?:Constraint|organization policy)[^\n]*?(?P<name>constraints/[\w./-]+)",
        AccessError,
        "the organization's policy {name} forbids {what}",
        "ask whoever looks after them; packtrain cloud setup RUN --dry-run shows the command",
    ),
    _case(
        r"rateLimitExceeded|RATE_LIMIT_EXCEEDED|requests per minute|\(TooManyRequests\)|Too many requests|"
        r"code=429|HTTPError 429",
        UnavailableError,
        "{what}: too many requests at once",
        TRY_AGAIN,
    ),
    _case(
        r"Quota '(?P<name>[\w-]+)' exceeded\.\s+Limit: (?P<limit>[\d.]+)|"
        r"resource \"(?P<other>[\w-]+)\"[^\n]*?quota of '(?P<has>[\d.]+)'|QUOTA_EXCEEDED|quota[^\n]*exceeded",
        GateError,
        "the quota {name} of project {project} is used up (limit {limit})",
        "ask for more: https://console.cloud.google.com/iam-admin/quotas?project={project}",
    ),
    _case(
        r"RESOURCE_POOL_EXHAUSTED|does not have enough resources available|STOCKOUT|GCE_STOCKOUT",
        UnavailableError,
        "{what}: Google Cloud has none of these machines free there now",
        "another zone, or cluster.capacity: flex-start, which waits for them",
    ),
    _case(
        r"machine ?type[^\n]*?(?:does not exist in zone|not (?:available|supported|found) in|is not valid)|"
        r"(?:accelerator|Accelerator type)[^\n]*?(?:does not exist|not supported|not found)",
        ConfigError,
        "{what}: the machine or its GPU is not there in one of the zones: {said}",
        "packtrain cloud check RUN lists the zones that have it; --zone ZONE names one",
    ),
    _case(
        r"Identity Pool does not exist",
        ConfigError,
        "the project has no workload identity pool yet: no cluster in it has Workload Identity",
        "switch it on: gcloud container clusters update CLUSTER --workload-pool={project}.svc.id.goog",
    ),
    _case(
        r"concurrent policy changes|ABORTED|conditionNotMet|code=412",
        UnavailableError,
        "{what}: somebody changed the same rights at the same moment",
        TRY_AGAIN,
    ),
    _case(
        r"gke-gcloud-auth-plugin[^\n]*not found|getting credentials: exec: executable",
        ConfigError,
        "kubectl lacks gke-gcloud-auth-plugin, with which it logs in to the cluster",
        "install it: gcloud components install gke-gcloud-auth-plugin (or the Debian package"
        " google-cloud-cli-gke-gcloud-auth-plugin)",
    ),
    _case(
        r"You must be logged in to the server|\(Unauthorized\)|the server has asked for the client to",
        AccessError,
        "the cluster does not accept gcloud's login",
        LOGIN + ", then the same command again",
    ),
    _case(
        r"\(Forbidden\)[^\n]*?cannot (?P<name>\w+) resource \"(?P<other>[\w.]+)\"",
        AccessError,
        "no right to {name} {other} in the cluster",
        f"{IN_CLUSTER}; {GRANTS}",
    ),
    _case(
        r"Apply failed with \d+ conflicts?: (?P<name>.*?)(?:Please review|$)",
        ConflictError,
        "an object in the cluster was changed by somebody else: {name}",
        "packtrain changes nothing that others look after: change it there, or name another in the run file",
    ),
    _case(
        r"no matches for kind \"(?P<name>\w+)\"|doesn't have a resource type \"(?P<other>\w+)\"",
        ConfigError,
        "the cluster does not know the kind {name}",
        "networks for GPUs need a cluster with --enable-multi-networking; JobSet and Kueue must be installed",
    ),
    _case(
        r"current-context is not set|no configuration has been provided|invalid configuration|"
        r"error loading config file|unable to (?:load root certificates|parse bytes)|"
        r"context \"[^\"]*\" does not exist|"
        # Where kubectl looks for a server that no file names.
        r"(?:localhost|127\.0\.0\.1|\[::1\]):8080\b",
        ConfigError,
        "the kubeconfig is missing or damaged",
        "unset PACKTRAIN_KUBECONFIG, or let it name a kubeconfig with a current context",
    ),
    _case(
        r"x509|certificate signed by unknown authority|tls: failed to verify",
        AccessError,
        "the cluster's certificate is not the one that is expected",
        "a proxy may be in between, or the cluster was made anew: run packtrain cloud setup RUN again",
    ),
    _case(
        r"connection to the server (?P<name>\S+) was refused|"
        r"Unable to connect to the server: (?P<other>[^\n]+)|TLS handshake timeout|context deadline exceeded",
        UnavailableError,
        SILENT + ": {name}",
        "check the network; a private cluster is reached only from networks that it lets in"
        " (gcloud container clusters update --enable-dns-access)",
    ),
    _case(
        r"already exists|ALREADY_EXISTS|\(AlreadyExists\)|is the subject of a conflict|already own it",
        ConflictError,
        "{what}: the name is taken: {said}",
        "the same command again looks at what is there",
    ),
    _case(
        r"\((?:InternalError|ServiceUnavailable|Timeout)\)|unable to handle the request|code=5\d\d|"
        r"HTTPError 5\d\d|UNAVAILABLE|INTERNAL\b|Internal error|backendError",
        UnavailableError,
        "{what}: {who} answers with an error of its own: {said}",
        TRY_AGAIN,
    ),
    _case(
        r"ConnectionError|establish a new connection|Unable to find the server|Network is unreachable|"
        r"Max retries exceeded|timed out|Connection refused|gcloud crashed|TransportError|name resolution",
        UnavailableError,
        "{what}: Google Cloud is not reached",
        "check the network and the proxy (gcloud info --run-diagnostics)",
    ),
)
_DENIED = re.compile(
    r"PERMISSION_DENIED|code=403|HTTPError 403|\(Forbidden\)|does not have \S+ access|Permission \S+ denied|"
    r"does not have permission|Required ['\"]?[\w.]+['\"]? permission|Access Denied|forbidden",
    re.I,
)
_OPTIONS = re.compile(r"--project=(\S+)")


def is_absent(finished: Finished) -> bool:
    return bool(ABSENT.search(finished.stderr)) and not _DENIED.search(finished.stderr)


def is_api_off(finished: Finished) -> bool:
    return bool(API_OFF.search(finished.stderr))


def passes_when_new(finished: Finished) -> bool:
    """Whether it fails only because what it needs has just been made or enabled."""
    return is_api_off(finished) or bool(_NEW.search(finished.stderr))


def explain(command: Command, finished: Finished) -> PacktrainError:
    """The error of ours for a command that ended badly."""
    text = finished.stderr or finished.stdout
    named_project = next((found[1] for word in command.argv if (found := _OPTIONS.match(word))), None)
    project = named_project or "of the run file"
    if is_api_off(finished):
        return _api_off(text, project)
    bucket = next((word for word in command.argv if word.startswith("gs://")), "")
    place = f" in project {named_project}" if named_project else f" on {bucket}" if bucket else ""
    who = "the cluster" if command.argv[0] == "kubectl" else "Google Cloud"
    facts = {"what": spoken(command), "project": project, "said": said(text), "place": place, "who": who}
    for case in CASES:
        found = case.pattern.search(text)
        if found:
            named = {key: value for key, value in found.groupdict().items() if value}
            named.setdefault("name", named.get("other") or named.get("third") or facts["said"])
            named.setdefault("limit", named.get("has", "unknown"))
            words = {**facts, "other": "", **named}
            return case.kind(_one_line(case.sentence.format(**words)), hint=case.hint.format(**words))
    if _DENIED.search(text):
        return _denied(text, facts, bucket)
    first = command.shown().splitlines()[0]
    return ConfigError(f"{facts['what']} failed: {facts['said']}", hint=f"the command was: {first}")


def said(text: str) -> str:
    """The line that tells most: the last that begins with ERROR (gcloud) or error (kubectl)."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"error", line, re.I)]
    line = (telling or lines or ["no message"])[-1]
    line = re.sub(r"^ERROR: (\([\w.-]+\) )?", "", line)
    line = re.sub(r"\s*This command is authenticated .*$", "", line)
    return line.rstrip(". ")[:300]


def _api_off(text: str, project: str) -> ConfigError:
    found = _API.search(text)
    api = found[1] if found else "API"
    return ConfigError(
        f"the service {api} is not enabled in the project {project}",
        hint=f"packtrain cloud setup RUN enables it, or: gcloud services enable {api} --project={project}",
    )


def _denied(text: str, facts: dict[str, str], bucket: str) -> AccessError:
    found = PERMISSION.search(text)
    if found is None:
        inside = f"{IN_CLUSTER}; " if facts["who"] == "the cluster" else ""
        return AccessError(f"{facts['what']} is refused: {facts['said']}", hint=inside + GRANTS)
    role = role_for(found[0])
    has = f"it is in {role}; " if role else ""
    if bucket and found[0] == "storage.buckets.get":
        return AccessError(
            f"{bucket} is somebody else's bucket (its name is taken in all of Google Cloud), or you may not"
            f" look at it: the permission {found[0]} is missing",
            hint=f"choose another bucket in output.uri; or, if it is yours: {has}{GRANTS}",
        )
    return AccessError(
        f"{facts['what']} is refused: the permission {found[0]} is missing{facts['place']}", hint=has + GRANTS
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
