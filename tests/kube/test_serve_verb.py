"""packtrain serve, from the command line to a cluster and a bucket that are stand-ins."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from submitted import IMAGE, Site, receipt

from packtrain import runfile
from packtrain.errors import ConfigError, UnavailableError
from packtrain.kube.access import connect
from packtrain.kube.serving import Waiting, published, serving_of, stop, wait

RUN_ID = "01JD0000000000000000000000"
NAME = "train-serve"
SOON = Waiting(every=0.01, longest=0.2)


def is_ready(site: Site) -> None:
    site.api.status(
        "Deployment", NAME, observedGeneration=99, updatedReplicas=1, availableReplicas=1, replicas=1
    )


def make_pod(site: Site, *, node: str = "", **status: Any) -> None:
    labels = {
        "app.kubernetes.io/managed-by": "packtrain",
        "packtrain.dev/run": "train",
        "packtrain.dev/role": "serve",
    }
    spec: dict[str, Any] = {"containers": [{"name": "vllm", "image": "i"}]} | (
        {"nodeName": node} if node else {}
    )
    site.api.create("Pod", f"{NAME}-0", labels=labels, spec=spec)
    site.api.status("Pod", f"{NAME}-0", **status)


def started(site: Site) -> Path:
    site.bucket.put("out/receipt.json", receipt(RUN_ID))
    run = site.run_file()
    assert site.packtrain("serve", run, "--detach").code == 0
    return run


def test_a_dry_run_prints_manifests_and_asks_nobody(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACKTRAIN_KUBECONFIG", "/nowhere")
    ended = site.packtrain("serve", site.run_file(), "--dry-run", "--capacity", "spot")
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
    ended = site.packtrain("serve", run, "--json")  # the same command waits again, and finds it ready
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["deployment"] == NAME

    ended = site.packtrain("serve", run, "--stop")
    assert ended.out.splitlines() == [f"Service {NAME} is gone", f"Deployment {NAME} is gone"]
    assert site.api.names("Deployment") == []
    again = site.packtrain("serve", run, "--stop")
    assert (again.code, again.out) == (0, "")
    assert "Nothing serves train" in again.err


def test_nothing_is_made_where_no_verified_adapter_is(site: Site) -> None:
    ended = site.packtrain("serve", site.run_file())
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
            "no node has enough nvidia.com/gpu free",
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
    assert sentence in str(caught.value)
    assert "--stop" in (caught.value.hint or "")


def test_one_that_is_removed_while_it_is_waited_for_is_told(site: Site) -> None:
    config = runfile.load(started(site)).config
    with connect(config) as cluster:
        stop(cluster, config)
        with pytest.raises(ConfigError, match="train-serve is not in"):
            wait(cluster, config, lambda line: None, SOON)


def test_a_receipt_that_is_none_is_not_served(site: Site) -> None:
    serving = serving_of(runfile.load(site.run_file()).config, IMAGE, "g2-standard-12", "on-demand")
    site.bucket.put("out/receipt.json", b"{}")
    with pytest.raises(Exception, match="is not a receipt"):
        published(serving)
    site.bucket.put("other/receipt.json", receipt(RUN_ID))
    assert published(replace(serving, adapter_uri=site.bucket.uri("other"))).run_id == RUN_ID
