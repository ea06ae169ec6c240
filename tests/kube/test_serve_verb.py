"""packtrain serve, from the command line to a cluster and a bucket that are stand-ins."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from standins.kube_api import Fault
from submitted import IMAGE, Site, receipt

from packtrain import runfile
from packtrain.errors import ConfigError, UnavailableError
from packtrain.kube import api
from packtrain.kube.access import connect
from packtrain.kube.serving import Waiting, published, serving_of, stop, wait

RUN_ID = "01JD0000000000000000000000"
NAME = "train-serve"
L4 = ("--machine", "g2-standard-12")
KINDS = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 1024,
}
SOON = Waiting(every=0.01, longest=0.2)


def is_ready(site: Site) -> None:
    site.api.status(
        "Deployment", NAME, observedGeneration=99, updatedReplicas=1, availableReplicas=1, replicas=1
    )


def make_pod(site: Site, *, node: str = "", spec: dict[str, Any] | None = None, **status: Any) -> None:
    labels = {
        "app.kubernetes.io/managed-by": "packtrain",
        "packtrain.dev/run": "train",
        "packtrain.dev/role": "serve",
    }
    spec = spec or {"containers": [{"name": "vllm", "image": "i"}]}
    spec = spec | ({"nodeName": node} if node else {})
    site.api.create("Pod", f"{NAME}-0", labels=labels, spec=spec)
    site.api.status("Pod", f"{NAME}-0", **status)


def started(site: Site) -> Path:
    site.bucket.put("out/receipt.json", receipt(RUN_ID))
    run = site.run_file()
    ended = site.packtrain("serve", run, "--detach", *L4)
    assert ended.code == 0, ended.err
    return run


def has_base(site: Site, **changes: Any) -> None:
    """The hub's base is a whole one, as far as its config.json goes."""
    content = json.dumps(KINDS | changes)
    (site.folder / "base" / "config.json").write_text(content)


def test_a_dry_run_prints_manifests_and_asks_nobody(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACKTRAIN_KUBECONFIG", "/nowhere")
    ended = site.packtrain("serve", site.run_file(), "--dry-run", "--capacity", "spot", *L4)
    assert ended.code == 0, ended.err
    deployment, service = yaml.safe_load_all(ended.out)
    assert (deployment["kind"], service["kind"]) == ("Deployment", "Service")
    assert "0.56 USD an hour until it is stopped" in ended.err
    assert "port-forward service/train-serve 8000:8000" in ended.err
    assert "curl http://127.0.0.1:8000/v1/chat/completions" in ended.err


def test_it_is_made_waited_for_and_removed(site: Site) -> None:
    run = started(site)
    made = site.api.get("Deployment", NAME)
    init = made["spec"]["template"]["spec"]["initContainers"][0]
    assert init["image"] == IMAGE
    assert init["command"][2] == site.bucket.uri("out")
    assert site.api.names("Service") == [NAME]

    is_ready(site)
    ended = site.packtrain("serve", run, "--json", *L4)  # the same command waits again, and finds it ready
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["deployment"] == NAME

    ended = site.packtrain("serve", run, "--stop")
    assert ended.out.splitlines() == [f"Service {NAME} is gone", f"Deployment {NAME} is gone"]
    assert site.api.names("Deployment") == []
    again = site.packtrain("serve", run, "--stop")
    assert (again.code, again.out) == (0, "")
    assert "Nothing serves train" in again.err


def test_nothing_is_made_where_no_verified_adapter_is(site: Site) -> None:
    ended = site.packtrain("serve", site.run_file(), *L4)
    assert ended.code == 78
    assert "no verified adapter is there: it has no receipt.json" in ended.err
    assert "packtrain submit RUN" in ended.err
    assert site.api.names("Deployment") == []


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["--machine", "g2-standard12"], "--machine: g2-standard12 is not a machine type"),
        (["--capacity", "queued"], "--capacity: queued is none of on-demand, spot, flex-start"),
        (["-s", "output.uri=null"], "output.uri: is needed"),
    ],
)
def test_what_cannot_be_is_one_sentence(site: Site, arguments: list[str], pattern: str) -> None:
    ended = site.packtrain("serve", site.run_file(), "--dry-run", *arguments)
    assert ended.code == 78
    assert pattern in ended.err


@pytest.mark.parametrize(
    ("pod", "sentence"),
    [
        (None, "waits for its pod to be made"),
        (
            {
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "message": "1 Insufficient nvidia.com/gpu"}
                ]
            },
            "no node has enough nvidia.com/gpu free; wait for other pods to end, or for the autoscaler",
        ),
        ({"node": "n1"}, "the adapter is fetched and verified on n1"),
        (
            {
                "node": "n1",
                "containerStatuses": [{"name": "vllm", "state": {"running": {}}, "restartCount": 0}],
            },
            "vLLM loads the base on n1",
        ),
    ],
)
def test_what_it_waits_for_is_said_and_has_a_limit(
    site: Site, pod: dict[str, Any] | None, sentence: str
) -> None:
    config = runfile.load(started(site)).config
    if pod is not None:
        make_pod(site, **pod)
    said: list[str] = []
    with connect(config) as cluster, pytest.raises(UnavailableError) as caught:
        wait(cluster, config, said.append, SOON)
    assert said == [sentence]
    assert sentence.partition(";")[0] in str(caught.value)
    assert "--stop" in (caught.value.hint or "")


def test_a_machine_without_a_pool_is_told_how_to_get_one(site: Site) -> None:
    run = started(site)
    template = site.api.get("Deployment", NAME)["spec"]["template"]["spec"]
    condition = {"type": "PodScheduled", "status": "False"}
    message = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
    make_pod(site, spec=template, conditions=[condition | {"message": message}])
    said: list[str] = []
    with connect(runfile.load(run).config) as cluster, pytest.raises(UnavailableError):
        wait(cluster, runfile.load(run).config, said.append, SOON)
    assert said == [
        "no node of the cluster is of the machine and capacity that the run asks for; packtrain cloud setup "
        "RUN --create-pool -s cluster.machine=g2-standard-12 -s cluster.nodes=1 "
        "-s cluster.capacity=on-demand makes a node pool"
    ]


def test_a_pod_that_may_not_be_made_is_told(site: Site) -> None:
    config = runfile.load(started(site)).config
    message = 'pods "x" is forbidden: error looking up service account a/b: serviceaccount "b" not found'
    condition = {"type": "ReplicaFailure", "status": "True", "message": message}
    site.api.status("Deployment", NAME, conditions=[condition])
    said: list[str] = []
    with connect(config) as cluster, pytest.raises(UnavailableError):
        wait(cluster, config, said.append, SOON)
    assert said == ['the service account "b" is not there; packtrain cloud setup RUN makes what is missing']


def test_what_crashes_again_and_again_is_not_waited_for_an_hour(site: Site) -> None:
    config = runfile.load(started(site)).config
    crash = {
        "name": "adapter",
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}},
        "lastState": {"terminated": {"exitCode": 77, "reason": "Error"}},
        "restartCount": 6,
    }
    make_pod(site, node="n1", initContainerStatuses=[crash])
    said: list[str] = []
    patient = Waiting(every=0.01, longest=600.0, stuck=0.05)
    with connect(config) as cluster, pytest.raises(UnavailableError, match="exit code 77: access refused"):
        wait(cluster, config, said.append, patient)
    assert len(said) == 1


def test_an_api_server_that_is_away_for_a_moment_is_sat_out(site: Site) -> None:
    config = runfile.load(started(site)).config
    is_ready(site)
    site.api.faults.add("GET", f"/deployments/{NAME}", Fault(503), times=2)
    said: list[str] = []
    with connect(config, patience=replace(api.PATIENCE, attempts=1)) as cluster:
        wait(cluster, config, said.append)
    assert len(said) == 1 and "asked again" in said[0]


def test_one_that_is_removed_while_it_is_waited_for_is_told(site: Site) -> None:
    config = runfile.load(started(site)).config
    with connect(config) as cluster:
        stop(cluster, config)
        with pytest.raises(ConfigError, match="train-serve is not in"):
            wait(cluster, config, lambda line: None, SOON)


def test_a_receipt_that_is_none_is_not_served(site: Site) -> None:
    config = runfile.load(site.run_file()).config
    serving = serving_of(config, IMAGE, "g2-standard-12", "on-demand", offline=True, say=lambda line: None)
    site.bucket.put("out/receipt.json", b"{}")
    with pytest.raises(Exception, match="is not a receipt"):
        published(serving)
    site.bucket.put("other/receipt.json", receipt(RUN_ID))
    assert published(replace(serving, adapter_uri=site.bucket.uri("other"))).run_id == RUN_ID


def test_the_machine_is_chosen_and_why_is_said(site: Site) -> None:
    has_base(site)
    site.bucket.put("out/receipt.json", receipt(RUN_ID))
    run = site.run_file()
    ended = site.packtrain("serve", run, "--detach")
    assert ended.code == 0, ended.err
    assert "g2-standard-4's NVIDIA L4 of 24.2 GB, 90% of it used, holds it" in ended.err
    assert "g2-standard-4 (1 × NVIDIA L4), on-demand: 0.71 USD an hour" in ended.err
    pod = site.api.get("Deployment", NAME)["spec"]["template"]["spec"]
    assert pod["nodeSelector"]["node.kubernetes.io/instance-type"] == "g2-standard-4"
    # The base knows fewer tokens than data.max_length: vLLM would refuse to start with more.
    command = pod["containers"][0]["command"]
    assert command[command.index("--max-model-len") + 1] == "1024"

    # By now the config.json is here, and a dry run says the same without asking anybody.
    asked = len(site.hub.requests)
    dry = site.packtrain("serve", run, "--dry-run")
    assert dry.code == 0, dry.err
    assert "g2-standard-4's NVIDIA L4" in dry.err
    assert "instance-type: g2-standard-4" in dry.out
    assert len(site.hub.requests) == asked
    refused = site.packtrain("serve", run, "--dry-run", "--machine", "g2-standard-96")
    assert refused.code == 76
    assert "4 attention heads (2 of keys) cannot be spread evenly over its 8 GPUs" in refused.err


def test_a_dry_run_that_does_not_know_the_base_says_what_to_do(site: Site) -> None:
    before = len(site.hub.requests)
    ended = site.packtrain("serve", site.run_file(), "--dry-run")
    assert (ended.code, ended.out) == (2, "")
    assert "which machine holds org/base is not known: its config.json is not on this machine" in ended.err
    assert "--machine TYPE names one; packtrain plan RUN brings it" in ended.err
    bucket = site.packtrain("serve", site.run_file(model__source="gs://models/x"), "--dry-run")
    assert (bucket.code, bucket.out) == (2, "")
    assert bucket.err.rstrip().endswith("--machine TYPE names one"), "no plan brings a bucket's"
    assert len(site.hub.requests) == before


def test_a_gated_base_says_why_and_how_it_goes_on(site: Site) -> None:
    site.bucket.put("out/receipt.json", receipt(RUN_ID))
    ended = site.packtrain("serve", site.run_file(model__source="org/gated"), "--detach")
    assert ended.code == 77
    assert "org/gated" in ended.err
    assert ended.err.rstrip().endswith("or name the machine: --machine TYPE")
    assert site.api.names("Deployment") == []


def test_the_base_is_the_one_that_the_adapter_was_trained_on(site: Site) -> None:
    told = json.loads(receipt(RUN_ID))
    site.bucket.put("out/receipt.json", json.dumps(told | {"base": {"revision": "c" * 40}}).encode())
    run = site.run_file()
    assert site.packtrain("serve", run, "--detach", *L4).code == 0
    pod = site.api.get("Deployment", NAME)["spec"]["template"]["spec"]
    command = pod["containers"][0]["command"]
    assert command[command.index("--revision") + 1] == "c" * 40
    pinned = site.run_file(model__revision="d" * 40)
    assert site.packtrain("serve", pinned, "--detach", *L4).code == 0
    pod = site.api.get("Deployment", NAME)["spec"]["template"]["spec"]
    command = pod["containers"][0]["command"]
    assert command[command.index("--revision") + 1] == "d" * 40
