"""An adapter served by vLLM: a Deployment and a Service, as pure functions of a run.

Nothing that was not verified is served: an init container of the trainer's image fetches the adapter and
checks it against its receipt. vLLM reads an adapter's folder as peft writes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from packtrain.config import RunConfig
from packtrain.errors import ConfigError
from packtrain.kube import pins
from packtrain.kube.names import MANAGED_BY, ROLE_LABEL, RUN_LABEL, TOKEN_KEY, TOKEN_SECRET, serve_name
from packtrain.kube.pod import TMP_PATH, WORK_PATH, capacity, machine
from packtrain.kube.serve_room import UTILIZATION, Served, lora_rank, served_length
from packtrain.kube.spec import Container, Manifest, Mount, Pod, Variable, empty_dir
from packtrain.plan.machines import Machine

#: How a node that serves is bought; a queue and a reservation are for runs.
Buyable = Literal["on-demand", "spot", "flex-start"]
SERVE = "serve"
PORT = 8000
ADAPTER_PATH = f"{WORK_PATH}/adapter"
BASE_PATH = f"{WORK_PATH}/base-files"
#: How long the base may take to come, to load and to be compiled, before the pod counts as stuck.
STARTING = 3600


@dataclass(frozen=True)
class Serving:
    config: RunConfig
    image: str
    """The trainer's, which fetches and verifies."""
    adapter_uri: str
    machine: Machine
    capacity: Buyable = "on-demand"
    served: Served | None = None
    """What is known of the base; None: nothing."""

    @property
    def is_adapter(self) -> bool:
        """False for full fine-tuning, whose result is a whole model."""
        return self.config.adapter.kind != "none"

    @property
    def brought(self) -> str | None:
        """The base, where it does not come from the Hugging Face hub, which vLLM reads by itself."""
        source = self.config.model.source
        return source if self.is_adapter and source.startswith(("gs://", "pypi:")) else None


def render_serve(serving: Serving) -> list[Manifest]:
    """The Deployment, then the Service in front of it.

    Errors: :class:`~packtrain.errors.ConfigError` for what cannot be served from a cluster.
    """
    check_servable(serving.config, serving.adapter_uri, serving.capacity)
    config = serving.config
    name, chosen = serve_name(config.name), labels(config.name)
    metadata = {"name": name, "namespace": config.cluster.namespace, "labels": chosen}
    selected = {RUN_LABEL: config.name, ROLE_LABEL: SERVE}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": 1,
            # The GPUs of a second pod would have to be bought first.
            "strategy": {"type": "Recreate"},
            "progressDeadlineSeconds": STARTING,
            "selector": {"matchLabels": selected},
            "template": _pod(serving).template(),
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": "ClusterIP",
            "selector": selected,
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
        },
    }
    return [deployment, service]


def labels(name: str) -> dict[str, str]:
    """As those of a run's other objects; an adapter is served by name, whichever run made it."""
    own = {"app.kubernetes.io/name": MANAGED_BY, "app.kubernetes.io/managed-by": MANAGED_BY}
    return own | {RUN_LABEL: name, ROLE_LABEL: SERVE}


def how_to_ask(serving: Serving) -> list[str]:
    """The commands that reach it from the user's machine."""
    config = serving.config
    question = f'{{"model": "{config.name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    return [
        f"kubectl --namespace {config.cluster.namespace} port-forward service/{serve_name(config.name)} "
        f"{PORT}:{PORT}",
        f"curl http://127.0.0.1:{PORT}/v1/chat/completions -H 'Content-Type: application/json' "
        f"-d '{question}'",
    ]


def check_servable(config: RunConfig, adapter_uri: str, capacity: str) -> None:
    """Errors: :class:`~packtrain.errors.ConfigError` for what cannot be served from a cluster."""
    source, problems = config.model.source, []
    if not adapter_uri.startswith("gs://"):
        problems.append(
            f"output.uri: {adapter_uri} is a folder of this machine, which pods do not see; publish "
            "the adapter to gs://BUCKET/PREFIX"
        )
    if config.adapter.kind != "none" and _is_here(source):
        problems.append(
            f"model.source: {source} is on this machine, which pods do not see; name the base by its Hugging "
            "Face id or as gs://BUCKET/PREFIX"
        )
    if config.adapter.kind == "dora":
        problems.append("adapter.kind: dora: vLLM serves no DoRA adapters; merge it into its base first")
    if config.adapter.kind != "none" and config.adapter.modules_to_save:
        problems.append(
            f"adapter.modules_to_save: {', '.join(config.adapter.modules_to_save)}: vLLM takes no whole "
            "modules out of an adapter; merge it into its base first"
        )
    if config.name[0].isdigit():
        problems.append(f"name: {config.name} begins with a digit, which a Service's name cannot")
    if capacity not in get_args(Buyable):
        problems.append(f"--capacity: {capacity} is none of {', '.join(get_args(Buyable))}")
    if problems:
        raise ConfigError("\n".join(problems))


def _is_here(source: str) -> bool:
    """Whether a base lies on the user's machine: by its name alone, for nothing is looked for."""
    if source.startswith(("gs://", "pypi:")):
        return False
    return source.startswith(("/", "./", "../", "~")) or source.lower().endswith(".gguf")


def _pod(serving: Serving) -> Pod:
    cluster = serving.config.cluster
    bought = cluster.model_copy(update={"capacity": serving.capacity, "node_pool": None})
    pod = Pod(
        service_account=cluster.service_account,
        containers=(_vllm(serving),),
        volumes=(empty_dir("work"), empty_dir("tmp")),
        labels=labels(serving.config.name),
        grace_seconds=30,
        restarts=True,
    )
    pod = replace(pod, init_containers=_bringers(serving))
    return capacity(machine(pod, serving.machine), bought)


def _bringers(serving: Serving) -> tuple[Container, ...]:
    adapter = Container(
        name="adapter",
        image=serving.image,
        command=("packtrain", "fetch", serving.adapter_uri, ADAPTER_PATH),
        env=_paths(),
        requests={"cpu": "1", "memory": "2Gi"},
        mounts=_mounts(),
    )
    if serving.brought is None:
        return (adapter,)
    command = ("python", "-m", "packtrain.model.bring", serving.brought, BASE_PATH)
    return (adapter, replace(adapter, name="base", command=command))


def _vllm(serving: Serving) -> Container:
    health = {"httpGet": {"path": "/health", "port": "http"}}
    return Container(
        name="vllm",
        image=pins.vllm_image(),
        command=("vllm", "serve", *_arguments(serving)),
        env=(
            *_paths(),
            # Python asks for the user's name, which this image has none of for user 1000.
            Variable("USER", "packtrain"),
            Variable("VLLM_CACHE_ROOT", f"{WORK_PATH}/cache/vllm"),
            Variable("VLLM_NO_USAGE_STATS", "1"),
            Variable("HF_TOKEN", secret=(TOKEN_SECRET, TOKEN_KEY)),
        ),
        ports={"http": PORT},
        mounts=_mounts(),
        probes={
            "startupProbe": health | {"periodSeconds": 10, "failureThreshold": STARTING // 10},
            "readinessProbe": health | {"periodSeconds": 5, "timeoutSeconds": 5},
            "livenessProbe": health | {"periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
        },
    )


def _arguments(serving: Serving) -> tuple[str, ...]:
    config = serving.config
    common = (
        *("--host", "0.0.0.0", "--port", str(PORT)),  # noqa: S104  (of a pod, behind its Service)
        # What the adapter was trained with; a longer one takes memory that a small GPU may not have.
        *("--max-model-len", str(served_length(config, serving.served))),
        *("--tensor-parallel-size", str(serving.machine.gpus)),
        *("--gpu-memory-utilization", str(UTILIZATION)),
        *(["--trust-remote-code"] if config.model.trust_remote_code else []),
    )
    if not serving.is_adapter:
        return (ADAPTER_PATH, "--served-model-name", config.name, *common)
    base = f"{BASE_PATH}/base" if serving.brought else config.model.source
    revision = config.model.revision
    pinned = ("--revision", revision) if revision and serving.brought is None else ()
    return (
        *(base, *pinned, "--served-model-name", f"{config.name}-base"),
        # The base's own files, which lie beside the adapter with the chat template of the run file.
        *("--tokenizer", ADAPTER_PATH),
        *("--enable-lora", "--lora-modules", f"{config.name}={ADAPTER_PATH}"),
        *("--max-lora-rank", str(lora_rank(config.adapter.rank))),
        *common,
    )


def _paths() -> tuple[Variable, ...]:
    return (
        Variable("PACKTRAIN_CACHE", f"{WORK_PATH}/cache"),
        Variable("HF_HOME", f"{WORK_PATH}/cache/huggingface"),
        Variable("TMPDIR", TMP_PATH),
        Variable("HOME", f"{WORK_PATH}/home"),
    )


def _mounts() -> tuple[Mount, ...]:
    return (Mount("work", WORK_PATH), Mount("tmp", TMP_PATH), Mount("tmp", "/tmp"))  # noqa: S108
