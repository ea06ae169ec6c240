"""Serving an adapter with vLLM: what is rendered."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import Any

import pytest
from launches import config_of

from packtrain.errors import ConfigError
from packtrain.kube import pins
from packtrain.kube.serve import Serving, how_to_ask, render_serve
from packtrain.plan.machines import machine

URI = "gs://my-bucket/final_model"


def serving_of(on: str = "g2-standard-12", **sections: Any) -> Serving:
    return Serving(config_of(**sections), "trainer:1", URI, machine(on))


def pod_of(serving: Serving) -> dict[str, Any]:
    deployment, _ = render_serve(serving)
    return dict(deployment["spec"]["template"]["spec"])


def arguments_of(serving: Serving) -> list[str]:
    (container,) = pod_of(serving)["containers"]
    return list(container["command"])


def after(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def test_the_adapter_is_fetched_and_verified_before_it_is_served() -> None:
    (adapter,) = pod_of(serving_of())["initContainers"]
    assert adapter["image"] == "trainer:1"
    assert adapter["command"] == ["packtrain", "fetch", URI, "/work/adapter"]
    words = arguments_of(serving_of())
    assert words[:3] == ["vllm", "serve", "meta-llama/Meta-Llama-3-8B-Instruct"]
    assert "--enable-lora" in words
    assert after(words, "--lora-modules") == "llama3-8b-dolly=/work/adapter"
    assert after(words, "--tokenizer") == "/work/adapter"


def test_the_image_of_vllm_is_pinned() -> None:
    (container,) = pod_of(serving_of())["containers"]
    assert container["image"] == pins.vllm_image()
    assert container["image"].startswith("vllm/vllm-openai:v")


def test_the_base_is_the_pinned_revision() -> None:
    words = arguments_of(serving_of(model={"revision": "abc123"}))
    assert after(words, "--revision") == "abc123"
    assert "--revision" not in arguments_of(serving_of())


def test_a_base_in_a_bucket_is_brought_by_our_image() -> None:
    serving = serving_of(model={"source": "gs://models/llama", "revision": None})
    adapter, base = pod_of(serving)["initContainers"]
    command = ["python", "-m", "packtrain.model.bring", "gs://models/llama", "/work/base-files"]
    assert base["command"] == command
    assert adapter["name"] == "adapter"
    assert arguments_of(serving)[2] == "/work/base-files/base"


def test_a_rank_is_told_as_vllm_takes_it() -> None:
    assert after(arguments_of(serving_of(adapter={"rank": 9})), "--max-lora-rank") == "16"


def test_code_of_the_bases_own_is_run_where_the_run_file_says_so() -> None:
    assert "--trust-remote-code" in arguments_of(serving_of(model={"trust_remote_code": True}))
    assert "--trust-remote-code" not in arguments_of(serving_of())


def test_a_rank_above_vllms_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"adapter\.rank: 513"):
        render_serve(serving_of(adapter={"rank": 513}))


def test_gpus_are_those_of_the_machine() -> None:
    serving = serving_of("g2-standard-48")
    pod = pod_of(serving)
    assert after(arguments_of(serving), "--tensor-parallel-size") == "4"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    # Through which the GPUs' processes talk.
    (shared,) = (each for each in pod["volumes"] if each["emptyDir"].get("medium") == "Memory")
    assert {"name": shared["name"], "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]
    assert pod["nodeSelector"]["cloud.google.com/gke-accelerator"] == "nvidia-l4"
    assert "gke-spot" not in json.dumps(pod["nodeSelector"])
    spot = pod_of(replace(serving, capacity="spot"))
    assert spot["nodeSelector"]["cloud.google.com/gke-spot"] == "true"


def test_the_service_and_the_deployment_find_the_same_pods() -> None:
    deployment, service = render_serve(serving_of())
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for selector in (deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]):
        assert selector.items() <= labels.items()
        # Never the trainer's pods, which have the run's label too.
        assert selector["packtrain.dev/role"] == "serve"
    (port,) = service["spec"]["ports"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert port["targetPort"] in {each["name"] for each in container["ports"]}


def test_it_is_ready_when_vllm_says_so() -> None:
    (container,) = pod_of(serving_of())["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "http"}
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 1800


def test_the_pod_keeps_the_restricted_standard() -> None:
    pod = pod_of(serving_of(model={"source": "gs://models/llama"}))
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert "restartPolicy" not in pod
    for container in [*pod["containers"], *pod["initContainers"]]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_how_to_ask_is_ready_to_copy() -> None:
    forward, curl = (shlex.split(line) for line in how_to_ask(serving_of(cluster={"namespace": "ml"})))
    assert forward == [
        *("kubectl", "--namespace", "ml", "port-forward", "service/llama3-8b-dolly-serve", "8000:8000"),
    ]
    question = json.loads(curl[curl.index("-d") + 1])
    assert question["model"] == "llama3-8b-dolly"
    assert question["messages"] == [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("sections", "changes", "pattern"),
    [
        ({}, {"adapter_uri": "/runs/a/adapter"}, r"output\.uri: /runs/a/adapter is a folder"),
        ({"model": {"source": "/models/llama"}}, {}, r"model\.source: /models/llama is on this machine"),
        (
            {"model": {"source": "models/llama.gguf"}},
            {},
            r"model\.source: models/llama.gguf is on this machine",
        ),
        ({"adapter": {"kind": "dora"}}, {}, r"adapter\.kind: dora: vLLM serves no DoRA adapters; merge it"),
        (
            {"adapter": {"modules_to_save": ["lm_head"]}},
            {},
            r"adapter\.modules_to_save: lm_head: vLLM takes no",
        ),
        ({"name": "8b"}, {}, r"name: 8b begins with a digit"),
        ({}, {"capacity": "queued"}, r"--capacity: queued is none of on-demand, spot, flex-start"),
    ],
)
def test_what_cannot_be_served_is_refused(
    sections: dict[str, Any], changes: dict[str, Any], pattern: str
) -> None:
    with pytest.raises(ConfigError, match=pattern):
        render_serve(replace(serving_of(**sections), **changes))
