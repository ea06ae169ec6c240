"""``packtrain status``, ``cancel`` and ``delete``: with a job, and when nothing is in the cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from standins.kube_api import KUEUE, Fault
from standins.kube_store import Object
from standins.kube_story import Cluster, wait_until
from submitted import Site, start, train_well

from packtrain.kube.nodes import sentence, used


def detached(site: Site, run: Path) -> str:
    """Submitted, and at work; the run's id."""
    ended = site.packtrain("submit", run, "--detach")
    assert ended.code == 0, ended.err
    wait_until(lambda: "training" in site.packtrain("status", run).out)
    return site.run_id()


def at_work(cluster: Cluster, job: Object) -> None:
    start(cluster, job)


def test_a_run_at_work(site: Site) -> None:
    run = site.run_file()
    site.play(at_work)
    run_id = detached(site, run)
    site.tell(
        run_id,
        ("start", 0, {"run_id": run_id, "steps": 4, "resumed_from": None}),
        ("step", 2, {"loss": 1.5, "tokens_per_second": 99.0}),
        ("checkpoint", 2, {"seconds": 0.1}),
    )
    shown = site.packtrain("status", run).out
    assert shown.startswith("train  training: step 2/4  loss 1.5000")
    assert f"run {run_id}" in shown
    assert "on gpu-node-1" in shown
    assert "step 2 of 4, loss 1.5000 (attempt 1)" in shown
    assert "last checkpoint: step 2" in shown
    told = json.loads(site.packtrain("status", run, "--json").out)
    assert (told["phase"], told["run_id"]) == ("training", run_id)
    assert told["progress"]["steps"] == 4
    assert told["output_uri"] == site.bucket.uri("out")


def test_all_runs(site: Site) -> None:
    site.api.create("Namespace", "other")
    site.api.play("*-preflight", lambda cluster, job: None)
    site.api.play("one", at_work)
    site.api.play("two", at_work)
    two = site.run_file("two", output__uri=site.bucket.uri("two"), cluster__namespace="other")
    for run in (site.run_file("one"), two):
        assert site.packtrain("submit", run, "--detach", "--no-preflight").code == 0
    wait_until(lambda: site.packtrain("status").out.count("training") == 2)
    shown = site.packtrain("status").out.splitlines()
    assert ["namespace default" in shown[0], "namespace other" in shown[1]] == [True, True]
    assert len(site.packtrain("status", "--namespace", "other").out.splitlines()) == 1
    assert [each["name"] for each in json.loads(site.packtrain("status", "--json").out)] == ["one", "two"]


def test_the_clusters_that_packtrain_was_in_are_found_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.play(at_work)
    detached(site, site.run_file())
    folder = site.folder / "cache" / "kubeconfig"
    folder.mkdir(parents=True)
    site.api.kubeconfig(folder / "my-project_us-central1_gpu.yaml")
    monkeypatch.delenv("PACKTRAIN_KUBECONFIG")
    assert site.packtrain("status").out.rstrip().endswith("  gpu, namespace default")


def test_no_run_and_no_cluster(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No run" in site.packtrain("status").err
    site.api.install(KUEUE)
    assert site.packtrain("status").code == 0, "JobSet need not be installed"
    monkeypatch.delenv("PACKTRAIN_KUBECONFIG")
    ended = site.packtrain("status")
    assert ended.code == 78
    assert "packtrain status RUN" in ended.err


def test_when_the_job_is_gone_the_bucket_tells(site: Site) -> None:
    run = site.run_file()
    site.play(at_work)
    run_id = detached(site, run)
    events: list[tuple[str, int, dict[str, Any]]] = [
        ("start", 0, {"run_id": run_id, "steps": 4, "resumed_from": None}),
        ("step", 2, {"loss": 1.5, "tokens_per_second": 99.0}),
    ]
    site.api.delete("Job", "train")
    told = site.packtrain("status", run).out
    assert "not in the cluster; the bucket has no word of it yet" in told
    assert "attempt 0" not in told
    site.tell(run_id, *events)
    assert "not in the cluster; its last word is of " in site.packtrain("status", run).out
    site.tell(run_id, *events, ("preempted", 2, {"signal": "SIGTERM", "message": "stopped by SIGTERM"}))
    assert "preempted: stopped by SIGTERM" in site.packtrain("status", run).out
    site.tell(run_id, ("start", 2, {"run_id": run_id, "steps": 4, "resumed_from": 2}), attempt=2)
    assert "not in the cluster" in site.packtrain("status", run).out
    site.tell(
        run_id,
        ("start", 2, {"run_id": run_id, "steps": 4, "resumed_from": 2}),
        ("end", 4, {"outcome": "done", "exit_code": 0}),
        attempt=2,
    )
    assert "succeeded" in site.packtrain("status", run).out
    site.api.faults.add("*", ".*", Fault(403), times=None)
    ended = site.packtrain("status", run)
    assert "succeeded" in ended.out
    assert "not seen: " in ended.err
    assert "hint: roles/container.developer" in ended.err
    site.tell(run_id, ("start", 2, {"run_id": run_id, "steps": 4, "resumed_from": 2}), attempt=3)
    ended = site.packtrain("status", run)
    assert "the cluster cannot be asked; its last word is of " in ended.out
    assert ended.code == 0


def test_nothing_is_known_of_a_run(site: Site) -> None:
    ended = site.packtrain("status", site.run_file())
    assert "unknown: no job in the cluster, and no run in the bucket" in ended.out
    assert ended.code == 0
    ended = site.packtrain("status", site.run_file(output__uri="gs://none/x"))
    assert "unknown: no job in the cluster, and the bucket cannot be asked" in ended.out
    site.api.faults.add("*", ".*", Fault(401), times=None)
    ended = site.packtrain("status", site.run_file())
    assert ended.code == 77, "that no job was seen in a cluster that cannot be asked says nothing"
    assert "hint: run: gcloud auth login" in ended.err
    ended = site.packtrain("status", site.run_file(output__uri="gs://none/x"))
    assert ended.code == 77, "neither side can be asked"


def test_cancel_stops_and_submit_goes_on(site: Site) -> None:
    run = site.run_file()
    jobs: list[Object] = []

    def story(cluster: Cluster, job: Object) -> None:
        jobs.append(job)
        (train_well(site) if len(jobs) == 2 else at_work)(cluster, job)

    site.play(story)
    run_id = detached(site, run)
    ended = site.packtrain("cancel", run)
    assert ended.code == 0, ended.err
    assert f"packtrain/train/{run_id}; packtrain submit RUN goes on from there" in ended.out
    assert "GPU nodes that still run" in ended.out
    assert site.api.names("Job") == site.api.names("Pod") == []
    again = json.loads(site.packtrain("cancel", run, "--json").out)
    assert again == {"name": "train", "run_id": None, "outcome": "absent"}
    assert site.packtrain("submit", run).code == 0
    assert site.run_id() == run_id
    assert json.loads(site.packtrain("cancel", run, "--json").out)["outcome"] == "over"


def test_cancel_leaves_what_is_not_ours(site: Site) -> None:
    site.api.create("Job", "train", spec={"template": {"spec": {"containers": [{"name": "a"}]}}})
    assert site.packtrain("cancel", site.run_file()).code == 73
    assert site.api.names("Job") == ["train"]


def test_a_job_that_does_not_go(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from packtrain.errors import UnavailableError
    from packtrain.kube.api import JOB
    from packtrain.kube.api import Cluster as Api
    from packtrain.kube.begin import remove

    site.api.store.termination = 30.0
    site.api.create("Job", "train", spec={"template": {"spec": {}}})
    api = Api.open(site.folder / "kubeconfig", "x", "default")
    with pytest.raises(UnavailableError, match="still being deleted"):
        remove(api, JOB, "train", limit=0.1)
    api.close()


def test_delete_takes_the_objects_and_leaves_the_data(site: Site) -> None:
    run = site.run_file()
    site.play(at_work)
    run_id = detached(site, run)
    site.api.create("ConfigMap", "theirs", data={"a": "b"})
    refused = site.packtrain("delete", run)
    assert refused.code == 2
    assert "--yes" in refused.err
    ended = site.packtrain("delete", run, "--yes")
    assert ended.code == 0, ended.err
    assert site.api.names("ConfigMap") == ["theirs"]
    assert site.api.names("Job") == []
    assert site.run_id() == run_id
    assert "Nothing of the run train is there" in site.packtrain("delete", run, "--yes").err


def test_delete_with_data(site: Site) -> None:
    run = site.run_file()
    site.play(train_well(site))
    assert site.packtrain("submit", run).code == 0
    site.tell(site.run_id(), ("start", 0, {"steps": 4, "resumed_from": None}))
    ended = site.packtrain("delete", run, "--yes", "--data", "--json")
    assert ended.code == 0, ended.err
    told = json.loads(ended.out)
    assert any("2 objects" in line for line in told["removed"])
    assert told["left"] == [f"the adapter in {site.bucket.uri('out')}, if it was published"]
    assert site.bucket.names("packtrain/") == []
    assert site.bucket.names("out/") == ["out/receipt.json"]


def test_a_deletion_that_was_cut_is_gone_on_with(site: Site) -> None:
    from standins.bucket import Fault as BucketFault

    run = site.run_file()
    site.play(train_well(site))
    assert site.packtrain("submit", run).code == 0
    site.tell(site.run_id(), ("start", 0, {"steps": 4, "resumed_from": None}))
    site.bucket.faults.add("DELETE", "events", BucketFault(status=403))
    assert site.packtrain("delete", run, "--yes", "--data").code == 77
    assert site.packtrain("delete", run, "--yes", "--data").code == 0
    assert site.bucket.names("packtrain/") == []


def test_a_served_adapter_stays(site: Site) -> None:
    from packtrain.kube.names import labels

    site.play(at_work)
    run = site.run_file()
    detached(site, run)
    site.api.create("Deployment", "train-serve", labels=labels("train", "x", "serve"))
    ended = site.packtrain("delete", run, "--yes")
    assert "left: Deployment train-serve of packtrain serve" in ended.out
    assert site.api.names("Deployment") == ["train-serve"]


def node(machine: str, **more: str) -> Object:
    labels = {"cloud.google.com/gke-accelerator": "x", "node.kubernetes.io/instance-type": machine}
    return {"metadata": {"labels": labels | {key.replace("_", "."): value for key, value in more.items()}}}


def test_what_still_runs_and_what_it_costs() -> None:
    spot = {"cloud.google.com/gke-spot": "true", "cloud.google.com/gke-nodepool": "gpu"}
    nodes = [node("a3-megagpu-8g", **spot), node("a3-megagpu-8g", **spot), node("unheard-of")]
    told = sentence(used(nodes), "the cluster gpu")
    assert "2 × a3-megagpu-8g (spot, about " in told
    assert "1 × unheard-of (on-demand)" in told
    assert "(node pool gpu)" in told
    assert sentence([], "x") == "No GPU node runs in x any more."
    assert "cannot be seen" in sentence(None, "x")
