"""Names, labels and annotations of all that a run has in a cluster, said once for all who use them."""

from __future__ import annotations

import hashlib

#: The Hugging Face token, as most guides name its Secret.
TOKEN_SECRET = "huggingface-secret"  # noqa: S105  (a Secret's name, not its content)
TOKEN_KEY = "token"  # noqa: S105
#: What the trackers of `report.to` need, each variable a key.
TRACKERS_SECRET = "packtrain-trackers"  # noqa: S105
#: The run file's key in the ConfigMap, and so its name in the pod.
RUN_FILE = "run.yaml"

MANAGED_BY = "packtrain"
RUN_LABEL = "packtrain.dev/run"
RUN_ID_LABEL = "packtrain.dev/run-id"
ROLE_LABEL = "packtrain.dev/role"
CONFIG_HASH = "packtrain.dev/config-hash"
RUN_URI = "packtrain.dev/run-uri"
OUTPUT_URI = "packtrain.dev/output-uri"

#: Containers of the pods, and the one replicated Job of a JobSet.
TRAINER = "trainer"
PREFLIGHT = "preflight"
TCPXO_DAEMON = "tcpxo-daemon"
TCPX_DAEMON = "tcpx-daemon"
REPLICATED_JOB = "node"
MASTER_PORT = 29500


def labels(name: str, run_id: str, role: str = TRAINER) -> dict[str, str]:
    """Labels of every object of a run. ``role``: trainer, preflight or serve."""
    return {
        "app.kubernetes.io/name": MANAGED_BY,
        "app.kubernetes.io/managed-by": MANAGED_BY,
        RUN_LABEL: name,
        RUN_ID_LABEL: run_id.lower(),
        ROLE_LABEL: role,
    }


def selector(name: str | None = None, role: str | None = None) -> str:
    """The label selector of all objects of packtrain, or those of one run or role."""
    wanted = {"app.kubernetes.io/managed-by": MANAGED_BY}
    wanted |= {RUN_LABEL: name} if name else {}
    wanted |= {ROLE_LABEL: role} if role else {}
    return ",".join(f"{key}={value}" for key, value in wanted.items())


def config_map_name(name: str, run_yaml: str) -> str:
    """Other content has another name, so that the ConfigMap never has to change."""
    return f"{name}-{hashlib.sha256(run_yaml.encode()).hexdigest()[:8]}"


def preflight_name(name: str) -> str:
    return f"{name}-preflight"


def serve_name(name: str) -> str:
    return f"{name}-serve"


def first_node(name: str) -> str:
    """The address of the first node of a JobSet, by its headless Service."""
    return f"{name}-{REPLICATED_JOB}-0-0.{name}"


def node_pool(machine: str, capacity: str) -> str:
    """The pool that setup makes where the run file names none: at most 40 characters, as GKE wants."""
    return f"packtrain-{machine}-{capacity}"
