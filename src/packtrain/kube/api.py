"""The Kubernetes API as far as a run needs it: plain objects in and out, our errors, retries with a limit.

lightkube reads the kubeconfig, logs in (with GKE's plugin) and checks certificates. The requests are our
own: its watches connect again for ever and its log streams have no limit in time, so that neither a cut
nor a server that has gone silent can be told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packtrain.errors import ConfigError, UnavailableError
from packtrain.kube.api_errors import PASSING, Answer, explain, is_tls, unreachable
from packtrain.storage.retry import RetryPolicy

Object = dict[str, Any]
MANAGER = "packtrain"
PATIENCE = RetryPolicy(attempts=5, deadline=60.0, first_delay=0.5, max_delay=8.0)
#: Seconds that a request may take, and that a stream may be silent before it is opened anew.
ANSWER, SILENCE = 20.0, 60.0


@dataclass(frozen=True)
class Kind:
    """A resource: where it is in the API."""

    api_version: str
    name: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def spoken(self) -> str:
        """For sentences; a custom resource with its group, which may not be installed."""
        return f"{self.name}.{self.group}" if "x-k8s.io" in self.group else self.name


JOB = Kind("batch/v1", "Job", "jobs")
JOBSET = Kind("jobset.x-k8s.io/v1alpha2", "JobSet", "jobsets")
POD = Kind("v1", "Pod", "pods")
EVENT = Kind("v1", "Event", "events")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
SERVICE = Kind("v1", "Service", "services")
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
NODE = Kind("v1", "Node", "nodes", namespaced=False)
WORKLOAD = Kind("kueue.x-k8s.io/v1beta2", "Workload", "workloads")
KINDS = {
    (kind.api_version, kind.name): kind
    for kind in (JOB, JOBSET, POD, EVENT, CONFIG_MAP, SERVICE, DEPLOYMENT, NODE, WORKLOAD)
}


@dataclass(frozen=True)
class Listing:
    items: list[Object]
    version: str
    """What a watch goes on from."""


class Cluster:
    """One cluster, one namespace (or, for lists, all). Every method raises one of :mod:`packtrain.errors`."""

    def __init__(self, http: Any, name: str, namespace: str, patience: RetryPolicy = PATIENCE) -> None:
        self._http, self.name, self.namespace, self._patience = http, name, namespace, patience

    @classmethod
    def open(cls, kubeconfig: Path, name: str, namespace: str, patience: RetryPolicy = PATIENCE) -> Cluster:
        """Errors: :class:`ConfigError` where the kubeconfig is missing or damaged."""
        try:
            from lightkube.config.client_adapter import Client, ConnectionParams
            from lightkube.config.kubeconfig import KubeConfig
            from lightkube.core.exceptions import ConfigError as LightkubeConfigError
        except ImportError:
            raise ConfigError(
                "lightkube, with which packtrain talks to clusters, is not installed",
                hint="pip install 'packtrain[gke]'",
            ) from None
        import httpx2 as httpx

        try:
            config = KubeConfig.from_file(kubeconfig).get()
            limits = ConnectionParams(timeout=httpx.Timeout(ANSWER))
            return cls(Client(config, limits), name, namespace, patience)
        except LightkubeConfigError as error:
            raise ConfigError(f"{kubeconfig}: {' '.join(str(error).split())}", hint=_HINT) from None
        except Exception as error:  # noqa: BLE001
            # Whatever a damaged file makes of its reader: a missing key, a wrong type, a bad certificate.
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(
                f"{kubeconfig}: is no kubeconfig that can be used ({said})", hint=_HINT
            ) from None

    def close(self) -> None:
        self._http.close()

    def within(self, namespace: str) -> Cluster:
        """The same cluster, another namespace; it is closed with this one. ``""``: all, for lists."""
        return Cluster(self._http, self.name, namespace, self._patience)

    def version(self) -> str:
        """Of the server; proves that it answers, and (it asks for the login first) that it is one."""
        answer = self._send("GET", "/version", "tell its version")
        return str((answer or {}).get("gitVersion", ""))

    def get(self, kind: Kind, name: str) -> Object | None:
        """The object, None where it is not there."""
        return self._send("GET", self._path(kind, name), f"read the {kind.spoken} {name}", absent=name)

    def list(self, kind: Kind, selector: str = "", fields: str = "") -> Listing:
        query = {"labelSelector": selector, "fieldSelector": fields}
        answer = self._send("GET", self._path(kind), f"list {kind.plural}.{kind.group}".rstrip("."), query)
        assert answer is not None
        items = [
            {"apiVersion": kind.api_version, "kind": kind.name} | item for item in answer.get("items") or []
        ]
        return Listing(items, str((answer.get("metadata") or {}).get("resourceVersion") or ""))

    def create(self, new: Object) -> Object:
        """Errors: :class:`AlreadyThereError` where one of this name is there."""
        kind, name = kind_of(new), new["metadata"]["name"]
        path, what = self._path(kind), f"create the {kind.spoken} {name}"
        made = self._send("POST", path, what, {"fieldManager": MANAGER}, body=new)
        assert made is not None
        return made

    def apply(self, wanted: Object, *, force: bool = False) -> Object:
        """Server-side apply. Errors: :class:`ConflictError` for fields that somebody else has set."""
        kind, name = kind_of(wanted), wanted["metadata"]["name"]
        query = {"fieldManager": MANAGER, "force": "true" if force else "false"}
        headers = {"Content-Type": "application/apply-patch+yaml"}
        what = f"apply the {kind.spoken} {name}"
        made = self._send("PATCH", self._path(kind, name), what, query, body=wanted, headers=headers)
        assert made is not None
        return made

    def delete(self, kind: Kind, name: str, *, uid: str | None = None, foreground: bool = False) -> bool:
        """Whether it was there. ``foreground``: it goes after what it owns. ``uid``: this very one."""
        options: Object = {"propagationPolicy": "Foreground" if foreground else "Background"}
        options |= {"preconditions": {"uid": uid}} if uid else {}
        what = f"delete the {kind.spoken} {name}"
        return self._send("DELETE", self._path(kind, name), what, body=options, absent=name) is not None

    def watch(
        self, kind: Kind, version: str, selector: str = "", seconds: float = 30.0
    ) -> Generator[Object, None, None]:
        """Changes after ``version`` as ``{"type": …, "object": …}``, until the stream ends.

        It ends after ``seconds``, or when the server says so. Errors: :class:`GoneError` (list again);
        :class:`UnavailableError` for a stream that was cut.
        """
        query = {"watch": "true", "resourceVersion": version, "labelSelector": selector}
        query |= {"timeoutSeconds": str(max(1, round(seconds)))}
        what = f"watch {kind.plural}"
        with self._stream(self._path(kind), what, query, silence=seconds + ANSWER) as lines:
            for line in lines:
                try:
                    change = json.loads(line)
                except ValueError:
                    raise UnavailableError(f"{self.name} cut the answer, asked to {what}") from None
                if change["type"] == "ERROR":
                    status = change["object"]
                    raise explain(Answer.read(int(status.get("code", 500)), status), self.name, what)
                yield change

    @contextmanager
    def log(self, pod: str, container: str, **options: str) -> Iterator[Iterator[str]]:
        """The lines of a container's log; ``options`` as the API has them (``follow``, ``sinceTime``, …)."""
        what = f"read the log of {pod}"
        query = {"container": container, **options}
        with self._stream(self._path(POD, f"{pod}/log"), what, query, silence=SILENCE) as lines:
            yield lines

    def _path(self, kind: Kind, name: str = "") -> str:
        prefix = f"/apis/{kind.api_version}" if kind.group else f"/api/{kind.api_version}"
        inside = f"/namespaces/{self.namespace}" if kind.namespaced and self.namespace else ""
        return f"{prefix}{inside}/{kind.plural}" + (f"/{name}" if name else "")

    def _send(
        self,
        method: str,
        path: str,
        what: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Object | None = None,
        headers: Mapping[str, str] | None = None,
        absent: str | None = None,
    ) -> Object | None:
        """One request, tried again while what fails can pass. None for what is ``absent``, by its name."""
        content = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} | dict(headers or {})
        params = {key: value for key, value in (query or {}).items() if value}

        def once() -> Object | Answer:
            response = self._http.request(method, path, params=params, content=content, headers=sent)
            data = _parsed(response.content)
            if response.is_success and isinstance(data, dict):
                return data
            return Answer.read(response.status_code, data, response.headers.get("Retry-After"))

        answer = self._retrying(once, what)
        if isinstance(answer, Answer):
            if answer.code == 404 and absent is not None and f'"{absent}" not found' in answer.message:
                return None
            raise explain(answer, self.name, what)
        return answer

    def _retrying(self, once: Callable[[], Object | Answer], what: str) -> Object | Answer:
        backoff = self._patience.start()
        while True:
            try:
                answer = once()
            except Exception as error:
                told = unreachable(error, self.name, what)
                if told is None:
                    raise
                if not isinstance(told, UnavailableError) or is_tls(error) or not backoff.wait():
                    raise told from error
                continue
            retry = isinstance(answer, Answer) and answer.code in PASSING
            if not retry or not isinstance(answer, Answer) or not backoff.wait(answer.retry_after):
                return answer

    @contextmanager
    def _stream(
        self, path: str, what: str, query: Mapping[str, str], *, silence: float
    ) -> Iterator[Iterator[str]]:
        """The lines of an answer as they come. Opened once: who reads it knows from where to go on."""
        import httpx2 as httpx

        params = {key: value for key, value in query.items() if value}
        limits = httpx.Timeout(ANSWER, read=silence)
        try:
            with self._http.stream("GET", path, params=params, timeout=limits) as response:
                if not response.is_success:
                    data = _parsed(response.read())
                    raise explain(Answer.read(response.status_code, data), self.name, what)
                yield response.iter_lines()
        except (httpx.HTTPError, OSError) as error:
            told = unreachable(error, self.name, what)
            assert told is not None
            raise told from error


_HINT = "unset PACKTRAIN_KUBECONFIG, or let it name a kubeconfig with a current context"


def kind_of(item: Object) -> Kind:
    """Errors: KeyError for a kind that no run has."""
    return KINDS[item["apiVersion"], item["kind"]]


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return {"message": " ".join(data.decode(errors="replace").split())[:200]} if data else None
