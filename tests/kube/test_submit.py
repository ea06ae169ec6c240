"""``packtrain submit`` from the run file to the exit code; cluster, bucket and hub are stand-ins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from standins.bucket import Fault as BucketFault
from standins.kube_api import Fault
from standins.kube_store import Object
from standins.kube_story import Cluster, wait_until
from submitted import (
    IMAGE,
    QUICK,
    Site,
    finish,
    real_preflight,
    receipt,
    run_id_of,
    start,
    train_well,
)


def test_a_run_is_checked_made_and_followed_to_its_end(site: Site) -> None:
    site.play(train_well(site))
    ended = site.packtrain("submit", site.run_file())
    assert ended.code == 0, ended.err
    assert "model org/base at " in ended.err
    assert "preflight: model org/base: the pod may use it" in ended.err
    assert "USD an hour" in ended.err
    assert "stops with a checkpoint at 100 USD" in ended.err
    assert "1 × a3-megagpu-8g (spot, about" in ended.err
    assert f"run {site.run_id()}" in ended.out
    assert "loss: base 2.0000, adapter 1.2500" in ended.out
    (config_map,) = site.api.find("ConfigMap")
    assert config_map["immutable"] is True
    run = yaml.safe_load(config_map["data"]["run.yaml"])
    assert len(run["model"]["revision"]) == 40
    assert len(run["data"]["revision"]) == 40
    assert run["cluster"]["image"] == IMAGE
    assert site.api.names("Job") == ["train"], "the preflight's Job is taken away"


def test_what_happens_on_the_way_is_told(site: Site) -> None:
    seen = threading.Event()

    def story(cluster: Cluster, job: Object) -> None:
        pod = cluster.pod(job)
        pod.unschedulable("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
        wait_until(lambda: said("no node has enough nvidia.com/gpu"))
        pod.event("TriggeredScaleUp", "pod triggered scale-up", "Normal")
        wait_until(lambda: said("a node is being made"))
        pod.schedule("gpu-node-1")
        pod.waiting("ContainerCreating")
        pod.event("Pulling", "Pulling image", "Normal")
        wait_until(lambda: said("pulling:"))
        pod.run("gpu-node-1")
        pod.log("loading org/base")
        wait_until(lambda: said("loading: loading org/base"))
        pod.log("step 2/4  loss 1.5000  99 tokens/s")
        wait_until(lambda: said("training: step 2/4"))
        pod.evict()
        wait_until(lambda: said("replaced: the pod"))
        finish(site, cluster, job, start(cluster, job, "gpu-node-2"))
        seen.set()

    errors: list[str] = []

    def said(text: str) -> bool:
        return any(text in line for line in errors)

    site.play(story)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("packtrain.cli.submit.note", errors.append)
        ended = site.packtrain("submit", site.run_file())
    assert ended.code == 0, errors
    assert seen.is_set()


@pytest.mark.parametrize("code", [65, 71, 73, 76, 77, 78, 79])
def test_the_exit_code_is_the_runs(site: Site, code: int) -> None:
    def story(cluster: Cluster, job: Object) -> None:
        pod = start(cluster, job)
        pod.log("error: what went wrong", "hint: what helps")
        pod.exit(code)
        cluster.fail(job, "PodFailurePolicy")

    site.play(story)
    ended = site.packtrain("submit", site.run_file())
    assert ended.code == code
    assert "error: the run failed: what went wrong" in ended.err
    assert "hint: what helps" in ended.err


def test_a_finished_run_is_said_to_be_finished(site: Site) -> None:
    site.play(train_well(site))
    run = site.run_file()
    assert site.packtrain("submit", run).code == 0
    before = len(site.api.requests)
    again = site.packtrain("submit", run)
    assert again.code == 0
    assert "is finished; --new starts another one" in again.err
    assert "adapter 1.2500" in again.out
    assert len(site.api.requests) == before, "the cluster is not even asked"


def test_other_settings_are_named(site: Site) -> None:
    site.play(train_well(site))
    assert site.packtrain("submit", site.run_file()).code == 0
    ended = site.packtrain("submit", site.run_file(train__epochs=2.0))
    assert ended.code == 78
    assert "train.epochs: 1.0 -> 2.0" in ended.err


def test_a_branch_that_moved_on_is_still_the_same_run(site: Site) -> None:
    site.play(lambda cluster, job: None)
    run = site.run_file()
    assert site.packtrain("submit", run, "--detach").code == 0
    (site.folder / "base" / "config.json").write_text('{"a": "newer"}')
    ended = site.packtrain("submit", run, "--detach")
    assert ended.code == 0, ended.err
    assert "is in the cluster already" in ended.err


def test_submitted_twice_it_is_followed(site: Site) -> None:
    go = threading.Event()

    def story(cluster: Cluster, job: Object) -> None:
        pod = start(cluster, job)
        assert go.wait(60)
        finish(site, cluster, job, pod)

    site.play(story)
    run = site.run_file()
    assert site.packtrain("submit", run, "--detach").code == 0
    uid = site.api.get("Job", "train")["metadata"]["uid"]
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "is in the cluster already: it is followed" in line:
            go.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("packtrain.cli.submit.note", say)
        ended = site.packtrain("submit", run)
    assert ended.code == 0, said
    assert go.is_set()
    assert site.api.get("Job", "train")["metadata"]["uid"] == uid


def test_a_failed_job_is_replaced_and_the_run_goes_on(site: Site) -> None:
    jobs: list[Object] = []

    def story(cluster: Cluster, job: Object) -> None:
        jobs.append(job)
        pod = start(cluster, job)
        if len(jobs) == 1:
            pod.exit(74)
            cluster.fail(job)
        else:
            finish(site, cluster, job, pod)

    site.play(story)
    run = site.run_file()
    assert site.packtrain("submit", run).code == 74
    ended = site.packtrain("submit", run)
    assert ended.code == 0, ended.err
    assert "is taken away, and made again" in ended.err
    first, second = jobs
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    assert run_id_of(first) == run_id_of(second)


def test_a_job_of_somebody_else_is_left_alone(site: Site) -> None:
    site.api.create("Job", "train", spec={"template": {"spec": {"containers": [{"name": "a"}]}}})
    ended = site.packtrain("submit", site.run_file())
    assert ended.code == 73
    assert "is not packtrain's" in ended.err
    assert site.api.names("Job") == ["train"]


def test_a_job_of_another_run_is_refused(site: Site) -> None:
    site.play(lambda cluster, job: None)
    run = site.run_file()
    assert site.packtrain("submit", run, "--detach").code == 0
    pointer = "packtrain/train/current.json"
    other = "01" + "B" * 24
    identity = json.loads(site.bucket.data(f"packtrain/train/{site.run_id()}/run.json")) | {"run_id": other}
    site.bucket.put(f"packtrain/train/{other}/run.json", json.dumps(identity).encode())
    site.bucket.put(pointer, json.dumps({"run_id": other}).encode())
    ended = site.packtrain("submit", run)
    assert ended.code == 73
    assert other in ended.err


def test_a_new_run_waits_for_the_old_one(site: Site) -> None:
    site.play(lambda cluster, job: None)
    run = site.run_file()
    assert site.packtrain("submit", run, "--detach").code == 0
    old = site.run_id()
    ended = site.packtrain("submit", run, "--new", "--detach")
    assert ended.code == 73
    assert "packtrain cancel" in ended.err
    assert site.packtrain("cancel", run).code == 0
    ended = site.packtrain("submit", run, "--new", "--detach")
    assert ended.code == 0, ended.err
    assert site.run_id() != old


def test_a_job_that_is_being_deleted_is_waited_for(site: Site) -> None:
    made: list[Object] = []

    def story(cluster: Cluster, job: Object) -> None:
        made.append(job)
        if len(made) == 2:
            train_well(site)(cluster, job)

    site.play(story)
    run = site.run_file()
    assert site.packtrain("submit", run, "--detach").code == 0
    site.api.store.termination = 0.5
    site.api.delete("Job", "train", policy="Foreground")
    ended = site.packtrain("submit", run)
    assert ended.code == 0, ended.err
    assert "is being deleted: that is waited for" in ended.err
    assert len(made) == 2


def test_a_job_that_has_lost_its_run_file_can_be_taken_away(site: Site) -> None:
    site.play(lambda cluster, job: None)
    run = site.run_file()
    assert site.packtrain("submit", run, "--detach").code == 0
    (name,) = site.api.names("ConfigMap")
    site.api.delete("ConfigMap", name)
    refused = site.packtrain("submit", run)
    assert refused.code == 73
    assert "has lost its run file" in refused.err
    assert site.packtrain("cancel", run).code == 0
    assert site.packtrain("submit", run, "--detach").code == 0


def test_nodes_that_cannot_be_listed_are_no_failure(site: Site) -> None:
    site.play(train_well(site))
    site.api.faults.add("GET", "/nodes", Fault(403), times=None)
    ended = site.packtrain("submit", site.run_file())
    assert ended.code == 0, ended.err
    assert "cannot be seen" in ended.err


def test_a_job_that_ended_well_without_a_receipt_is_no_success(site: Site) -> None:
    def story(cluster: Cluster, job: Object) -> None:
        start(cluster, job).exit(0)
        cluster.complete(job)

    site.play(story)
    ended = site.packtrain("submit", site.run_file())
    assert ended.code == 74
    assert "its receipt is not in" in ended.err


def test_a_place_that_another_runs_adapter_has_is_refused_before_it_costs(site: Site) -> None:
    site.bucket.put("out/receipt.json", receipt("01" + "C" * 24))
    ended = site.packtrain("submit", site.run_file())
    assert ended.code == 73
    assert "holds the finished adapter of another run" in ended.err
    assert site.api.requests == []


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"model__source": "org/gated"}, 77, "gated"),
        ({"model__source": "org/none"}, 77, "is not on the Hugging Face hub"),
        ({"data__train": "org/none"}, 77, "data set org/none"),
        ({"data__train": "gs://test-bucket/none.jsonl"}, 78, "is not there"),
        ({"model__revision": "none"}, 78, "no revision"),
        ({"output__uri": "gs://no-such-bucket/x"}, 74, "there is no such bucket"),
        ({"output__uri": None}, 78, "output.uri"),
        ({"cluster__machine": "a3-megagpu-9g"}, 78, "a3-megagpu-8g"),
    ],
)
def test_what_is_refused_from_here_costs_nothing(
    site: Site, changes: dict[str, Any], code: int, said: str
) -> None:
    ended = site.packtrain("submit", site.run_file(**changes))
    assert ended.code == code, ended.err
    assert said in ended.err
    assert site.api.names("Job") == []
    assert not [name for name in site.bucket.names() if "current" in name], "no run has begun"


def test_all_that_is_refused_is_told_at_once(site: Site) -> None:
    ended = site.packtrain("submit", site.run_file(model__source="org/gated", data__train="org/none"))
    assert ended.code == 77
    assert ended.err.count("error: ") == 2


@pytest.mark.slow
def test_the_preflight_pod_asks_with_its_own_rights(site: Site) -> None:
    site.api.play("*-preflight", real_preflight)
    site.api.play("train", train_well(site))
    ended = site.packtrain("submit", site.run_file())
    assert ended.code == 0, ended.err
    assert f"preflight: bucket {site.bucket.uri('out')}: the pod may use it" in ended.err
    assert not [name for name in site.bucket.names() if "preflight" in name], "it cleans up"


@pytest.mark.slow
def test_what_the_pod_may_not_is_found_before_a_gpu_costs(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACKTRAIN_PREFLIGHT_PATIENCE", "0")
    site.api.play("*-preflight", real_preflight)
    site.bucket.faults.add("POST", "/upload/", BucketFault(status=403), times=None)
    ended = site.packtrain("submit", site.run_file())
    assert ended.code == 77
    assert "from the pod: " in ended.err
    assert "packtrain cloud setup" in ended.err
    assert site.api.names("Job") == ["train-preflight"], "its log can be read"


def test_a_preflight_that_cannot_begin_says_why(site: Site) -> None:
    def story(cluster: Cluster, job: Object) -> None:
        pod = cluster.pod(job)
        pod.schedule("system-node")
        pod.waiting("ImagePullBackOff", "Back-off pulling image: not found")

    site.api.play("*-preflight", story)
    ended = site.packtrain("submit", site.run_file())
    assert ended.code == 78
    assert "the image is not there" in ended.err
    assert "packtrain image build" in ended.err


def test_a_preflight_without_an_answer_is_told_with_its_last_line(site: Site) -> None:
    def story(cluster: Cluster, job: Object) -> None:
        pod = cluster.pod(job)
        pod.run("system-node")
        pod.log("Traceback (most recent call last):", "ModuleNotFoundError: No module named 'packtrain'", "")
        pod.exit(1)
        cluster.fail(job)

    site.api.play("*-preflight", story)
    ended = site.packtrain("submit", site.run_file())
    assert ended.code == 70
    assert "the preflight pod ended with exit code 1" in ended.err
    assert "it printed last: ModuleNotFoundError: No module named 'packtrain'" in ended.err
    assert "kubectl --namespace default logs job/train-preflight shows what it printed" in ended.err
    assert site.api.names("Job") == ["train-preflight"]


def test_the_preflight_can_be_left_out(site: Site) -> None:
    site.api.play("train", train_well(site))
    assert site.packtrain("submit", site.run_file(), "--no-preflight").code == 0


def test_waiting_for_nodes_has_a_limit(site: Site) -> None:
    def story(cluster: Cluster, job: Object) -> None:
        cluster.pod(job).unschedulable("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")

    site.play(story)
    ended = site.packtrain("submit", site.run_file(), "--wait-limit", "1s")
    assert ended.code == 69
    assert "no nodes within the wait limit: no node has enough nvidia.com/gpu" in ended.err
    wait_until(lambda: site.api.names("Job") == [])
    assert site.packtrain("submit", site.run_file(), "--wait-limit", "soon").code == 2


@pytest.mark.parametrize("fault", [Fault(500), Fault(429), Fault(drop=True), Fault(410)], ids=str)
def test_bad_weather_on_the_way_is_sat_out(site: Site, fault: Fault) -> None:
    def story(cluster: Cluster, job: Object) -> None:
        pod = start(cluster, job)
        for method, path in (
            ("GET", "/pods"),
            ("WATCH", "/pods"),
            ("GET", "/jobs/train"),
            ("GET", "/events"),
        ):
            if fault.status != 410 or method == "WATCH":
                cluster.api.faults.add(method, path, fault, times=1)
        wait_until(lambda: cluster.api.faults.hits >= 1)
        cluster.api.store.compact()
        finish(site, cluster, job, pod)

    site.play(story)
    ended = site.packtrain("submit", site.run_file())
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("fault", "code"), [(Fault(401), 77), (Fault(403), 77), (Fault(drop=True), 69)], ids=str
)
def test_a_run_that_is_not_seen_any_more_is_said_to_go_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, fault: Fault, code: int
) -> None:
    def story(cluster: Cluster, job: Object) -> None:
        start(cluster, job)
        wait_until(lambda: ("GET", "/api/v1/namespaces/default/events") in cluster.api.requests)
        cluster.api.faults.add("*", ".*", fault, times=None)

    monkeypatch.setattr("packtrain.kube.observe.PACE", replace(QUICK, away=0.5))
    site.play(story)
    run = site.run_file()
    ended = site.packtrain("submit", run)
    assert ended.code == code, ended.err
    assert "The Job train goes on in the cluster, and is not seen any more: the same command" in ended.err
    site.api.faults.clear()
    ended = site.packtrain("submit", run, "--detach")
    assert "is in the cluster already" in ended.err


def test_a_job_that_is_deleted_by_somebody_is_told(site: Site) -> None:
    def story(cluster: Cluster, job: Object) -> None:
        start(cluster, job)
        wait_until(lambda: ("GET", "/api/v1/namespaces/default/events") in cluster.api.requests)
        cluster.api.delete("Job", "train")

    site.play(story)
    ended = site.packtrain("submit", site.run_file())
    assert ended.code == 75
    assert "was deleted while it was followed" in ended.err


def test_several_nodes_need_jobset(site: Site) -> None:
    site.play(lambda cluster, job: None)
    site.api.install()
    ended = site.packtrain("submit", site.run_file(cluster__nodes=2), "--detach")
    assert ended.code == 78
    assert "JobSet, which several nodes need" in ended.err


def test_several_nodes_are_a_jobset(site: Site) -> None:
    def story(cluster: Cluster, jobset: Object) -> None:
        pods = [cluster.pod(jobset, index) for index in range(2)]
        for pod in pods:
            pod.run(f"gpu-node-{pod.name}")
            pod.log("step 1/4")
        site.bucket.put("out/receipt.json", receipt(run_id_of(jobset)))
        for pod in pods:
            pod.exit(0)
        cluster.complete(jobset)

    site.play(story)
    ended = site.packtrain("submit", site.run_file(cluster__nodes=2))
    assert ended.code == 0, ended.err
    assert "2 × a3-megagpu-8g" in ended.err


def test_a_queue_lets_it_in_and_takes_its_place_away(site: Site) -> None:
    said: list[str] = []

    def heard(text: str) -> None:
        wait_until(lambda: any(text in line for line in said))

    def suspend(cluster: Cluster, job: Object, value: bool) -> None:
        api = cluster.api
        found = api.get("Job", "train")
        found["spec"]["suspend"] = value
        api.store.replace(api.resource("Job"), "default", "train", found, "kueue")

    def story(cluster: Cluster, job: Object) -> None:
        waits = {"type": "QuotaReserved", "status": "False", "message": "insufficient unused quota"}
        name = cluster.workload(job, [waits])
        heard("waits in the queue gpus: insufficient unused quota")
        let_in = [{"type": "QuotaReserved", "status": "True"}]
        checks = [{"name": "dws", "state": "Pending", "message": "no capacity before noon"}]
        cluster.api.status("Workload", name, conditions=let_in, admissionChecks=checks)
        heard("waits for dws: no capacity before noon")
        cluster.api.status("Workload", name, admissionChecks=[])
        suspend(cluster, job, False)
        pod = start(cluster, job)
        heard("training")
        suspend(cluster, job, True)  # Kueue preempts by suspending: no DisruptionTarget
        pod.delete()
        evicted = {"type": "Evicted", "status": "True", "message": "Preempted by a run of more weight"}
        cluster.api.status("Workload", name, conditions=[evicted])
        heard("took its place away: Preempted by a run of more weight")
        suspend(cluster, job, False)
        finish(site, cluster, job, start(cluster, job))

    site.play(story)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("packtrain.cli.submit.note", said.append)
        ended = site.packtrain("submit", site.run_file(cluster__queue="gpus"))
    assert ended.code == 0, said


def test_a_dry_run_asks_nobody(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    ended = site.packtrain("submit", site.run_file(), "--dry-run", "--output", file)
    assert ended.code == 0, ended.err
    assert site.api.requests == []
    assert site.hub.requests == []
    kinds = [each["kind"] for each in yaml.safe_load_all(file.read_text())]
    assert kinds == ["ConfigMap", "Job"]
    printed = site.packtrain("submit", site.run_file(), "--dry-run")
    assert [each["kind"] for each in yaml.safe_load_all(printed.out)] == kinds


def test_what_is_made_can_be_kept_as_a_file(site: Site, tmp_path: Path) -> None:
    site.play(train_well(site))
    file = tmp_path / "job.yaml"
    assert site.packtrain("submit", site.run_file(), "--output", file).code == 0
    made = list(yaml.safe_load_all(file.read_text()))
    assert made[0]["data"] == site.api.find("ConfigMap")[0]["data"]


def test_two_that_submit_at_once_have_one_run(site: Site) -> None:
    site.play(lambda cluster, job: None)
    run = site.run_file()
    ended: list[int] = []

    def once() -> None:
        from packtrain.kube.submit import Options, World, submit
        from packtrain.runfile import load

        submit(load(run).config, Options(preflight=False, detach=True), World(lambda line: None))
        ended.append(0)

    threads = [threading.Thread(target=once) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ended == [0, 0]
    (job,) = site.api.find("Job")
    assert run_id_of(job) == site.run_id()


def test_ctrl_c_before_the_run_has_begun_leaves_what_the_same_command_ends(site: Site) -> None:
    def story(cluster: Cluster, job: Object) -> None:
        cluster.pod(job).unschedulable("0/3 nodes are available: 3 Insufficient cpu.")
        waits.set()

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("preflight: queued") and waits.is_set():
            raise KeyboardInterrupt

    said: list[str] = []
    waits = threading.Event()
    site.api.play("*-preflight", story)
    run = site.run_file()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("packtrain.cli.submit.note", say)
        assert site.packtrain("submit", run).code == 130
    assert "Stopped before the run was seen to begin; the same command goes on" in said[-1]
    assert site.api.names("Job") == ["train-preflight"]
    site.api.stories.clear()
    site.play(train_well(site))
    assert site.packtrain("submit", run).code == 0
    assert site.api.names("Job") == ["train"]


@pytest.mark.slow
def test_ctrl_c_detaches_and_says_how_to_come_back(site: Site) -> None:
    def story(cluster: Cluster, job: Object) -> None:
        start(cluster, job)

    site.play(story)
    command = [sys.executable, "-m", "packtrain.cli.main", "submit", str(site.run_file()), "--no-preflight"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "training: step 2/4" in line:
                break
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "Detached; the run goes on. packtrain submit RUN follows it" in said
    assert site.api.names("Job") == ["train"]
