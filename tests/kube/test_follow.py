"""What the cluster shows becomes a phase and a sentence: each kind of bad weather, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from packtrain.errors import BY_EXIT_CODE
from packtrain.kube.follow import Observation, State, look, printed, spoken
from packtrain.kube.pod_facts import Ended, Reason, disruption, meaning

Object = dict[str, Any]


def job(*conditions: Object, kind: str = "Job", **spec: Any) -> Object:
    return {
        "kind": kind,
        "metadata": {"name": "train", "uid": "j", "labels": {}},
        "spec": spec,
        "status": {"conditions": [{"status": "True"} | each for each in conditions]},
    }


def pod(
    name: str = "p",
    *,
    index: int = 0,
    created: str = "2026-11-24T00:00:00Z",
    node: str = "n1",
    phase: str = "Pending",
    state: Object | None = None,
    last: Object | None = None,
    conditions: list[Object] | None = None,
    deleted: bool = False,
    **status: Any,
) -> Object:
    marks = {"batch.kubernetes.io/job-completion-index": str(index)}
    metadata: Object = {"name": name, "uid": name, "creationTimestamp": created, "annotations": marks}
    metadata |= {"deletionTimestamp": created} if deleted else {}
    told = {"name": "trainer", "state": state or {}, "lastState": last or {}, "restartCount": 0}
    return {
        "metadata": metadata,
        "spec": {"nodeName": node, "containers": [{"name": "trainer"}, {"name": "helper"}]},
        "status": {"phase": phase, "containerStatuses": [told], "conditions": conditions or []} | status,
    }


def running(name: str = "p", **more: Any) -> Object:
    return pod(name, phase="Running", state={"running": {}}, **more)


def ended(code: int, name: str = "p", reason: str = "Error", **more: Any) -> Object:
    state = {"terminated": {"exitCode": code, "reason": reason}}
    return pod(name, phase="Succeeded" if code == 0 else "Failed", state=state, **more)


def waiting(word: str, message: str = "", **more: Any) -> Object:
    return pod(state={"waiting": {"reason": word, "message": message}}, **more)


def event(reason: str, message: str, about: str = "p", at: str = "2026-11-24T00:00:01Z") -> Object:
    told = {"uid": about, "name": about}
    return {"reason": reason, "message": message, "involvedObject": told, "lastTimestamp": at, "metadata": {}}


EVICTED = [
    {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "spot"}
]
UNPLACED = [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]
SCHEDULING = [
    (
        ("FailedScheduling", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
        "enough nvidia.com/gpu",
    ),
    (
        ("FailedScheduling", "0/3 nodes: 3 node(s) didn't match Pod's node affinity/selector."),
        "no node of the",
    ),
    (("FailedScheduling", "running PreBind plugin"), "running PreBind plugin"),
    (("TriggeredScaleUp", "pod triggered scale-up: [{gpu-pool 0->1 (max: 2)}]"), "a node is being made"),
    (
        ("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size reached"),
        "as large as it may",
    ),
    (
        ("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 in backoff after failed scale-up"),
        "has failed lately",
    ),
    (
        ("FailedScaleUp", "Node scale up in zones us-central1-a failed: GCE out of resources."),
        "none of these",
    ),
    (("FailedScaleUp", "Node scale up in zones us-central1-a failed: GCE quota exceeded."), "quota"),
]


@pytest.mark.parametrize(("told", "said"), SCHEDULING, ids=[told[1][:40] for told, _ in SCHEDULING])
def test_a_pod_without_a_node_says_why(told: tuple[str, str], said: str) -> None:
    seen = Observation(job(), (pod(node="", conditions=UNPLACED),), (event(*told),))
    state = look(seen)
    assert state.phase == "queued"
    assert said in state.detail


def test_the_newest_word_about_a_node_counts() -> None:
    failed = event("FailedScaleUp", "GCE out of resources", at="2026-11-24T00:00:02Z")
    made = event("TriggeredScaleUp", "pod triggered scale-up", at="2026-11-24T00:00:03Z")
    later = event("FailedScheduling", "0/3 nodes available", at="2026-11-24T00:00:04Z")
    pods = (pod(node="", conditions=UNPLACED),)
    assert "being made" in look(Observation(job(), pods, (made, later, failed))).detail
    again = event("FailedScaleUp", "GCE out of resources", at="2026-11-24T00:00:05Z")
    assert "none of these machines" in look(Observation(job(), pods, (again, made, later))).detail
    other = event("FailedScaleUp", "GCE out of resources", about="another pod")
    assert look(Observation(job(), pods, (other,))).detail == "no node for it yet: 0/3 nodes are available"


@pytest.mark.parametrize(
    ("shown", "events", "phase", "said", "hint", "stuck"),
    [
        (
            waiting("ContainerCreating"),
            [("Pulling", "Pulling image")],
            "pulling",
            "being pulled",
            None,
            False,
        ),
        (waiting("ContainerCreating"), [], "starting", "being made on n1", None, False),
        (
            waiting("ImagePullBackOff", "Back-off pulling"),
            [("Failed", 'Failed to pull image "x": rpc error: code = NotFound: not found')],
            *("pulling", "the image is not there", "packtrain image build", True),
        ),
        (
            waiting("ErrImagePull", "failed to authorize: 403 Forbidden"),
            *([], "pulling", "no right to pull", "artifactregistry.reader", True),
        ),
        (waiting("InvalidImageName", "bad {0}"), [], "pulling", "bad {0}", None, True),
        (
            waiting("CreateContainerConfigError", 'secret "huggingface-secret" not found'),
            *([], "starting", 'the Secret "huggingface-secret" is not there', "cloud setup", True),
        ),
        (
            waiting("ContainerCreating"),
            [("FailedMount", 'MountVolume.SetUp failed: configmap "train-1" not found')],
            *("starting", 'the ConfigMap "train-1" is not there', "submit", True),
        ),
        (
            waiting("CreateContainerConfigError", "couldn't find key token in Secret ml/huggingface-secret"),
            *([], "starting", "Secret ml/huggingface-secret has no key token", "packtrain cloud setup", True),
        ),
        (
            waiting("CrashLoopBackOff", last={"terminated": {"exitCode": 139, "reason": "Error"}}),
            *([], "starting", "exit code 139: crashed", "packtrain logs", True),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_container_that_does_not_run_says_why(
    shown: Object, events: list[tuple[str, str]], phase: str, said: str, hint: str | None, stuck: bool
) -> None:
    state = look(Observation(job(), (shown,), tuple(event(*each) for each in events)))
    assert (state.phase, state.stuck) == (phase, stuck)
    assert said in state.detail
    assert (hint or "") in (state.hint or "")


def test_a_helper_that_does_not_start_is_told() -> None:
    helper = {
        "name": "tcpxo-daemon",
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "denied"}},
    }
    shown = waiting("PodInitializing") | {}
    shown["status"]["initContainerStatuses"] = [helper]
    assert "no right to pull" in look(Observation(job(), (shown,))).detail


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ('error looking up service account ns/x: serviceaccount "x" not found', 'service account "x" is not'),
        ('pods "p" is forbidden: violates PodSecurity "restricted:latest"', "Pod Security admission"),
        ('pods "p" is forbidden: exceeded quota: gpus, requested: 8', "ResourceQuota gpus"),
        ('admission webhook "guard.example" denied the request: no', "the webhook guard.example"),
        ("something else", "something else"),
    ],
)
def test_a_job_that_cannot_make_its_pods_says_why(message: str, said: str) -> None:
    state = look(Observation(job(), (), (event("FailedCreate", message, about="j"),)))
    assert state.phase == "queued"
    assert said in state.detail


def workload(*conditions: Object, checks: list[Object] | None = None) -> Object:
    return {"status": {"conditions": list(conditions), "admissionChecks": checks or []}}


def condition(kind: str, status: str, message: str = "") -> Object:
    return {"type": kind, "status": status, "message": message}


QUOTA = condition("QuotaReserved", "True")


@pytest.mark.parametrize(
    ("found", "said", "stuck"),
    [
        (None, "waits for Kueue to take it", False),
        (workload(), "its turn has not come", False),
        (
            workload(condition("QuotaReserved", "False", "insufficient unused quota")),
            "insufficient unused",
            False,
        ),
        (
            workload(condition("QuotaReserved", "False", "LocalQueue gpus doesn't exist")),
            "doesn't exist",
            True,
        ),
        (
            workload(QUOTA, checks=[{"name": "dws", "state": "Pending", "message": "ETA 2h"}]),
            "dws: ETA 2h",
            False,
        ),
        (
            workload(QUOTA, checks=[{"name": "dws", "state": "Rejected", "message": "no"}]),
            "refuses it: no",
            True,
        ),
        (
            workload(QUOTA, checks=[{"name": "dws", "state": "Retry", "message": "no"}]),
            "tried again: no",
            False,
        ),
        (workload(QUOTA, checks=[{"name": "dws", "state": "Ready"}]), "has let it in", False),
        (
            workload(condition("Evicted", "True", "Preempted by a run")),
            "took its place away: Preempted",
            False,
        ),
    ],
)
def test_a_job_in_a_queue_says_why(found: Object | None, said: str, stuck: bool) -> None:
    queued = job(suspend=True)
    queued["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpus"}
    state = look(Observation(queued, workload=found))
    assert (state.phase, state.stuck) == ("queued", stuck)
    assert said in state.detail


def test_a_job_that_somebody_suspended_is_stuck() -> None:
    assert look(Observation(job(suspend=True))).stuck


@pytest.mark.parametrize(
    ("lines", "phase", "shown"),
    [
        ((), "starting", ""),
        (("anything",), "starting", ""),
        (("loading meta-llama/x",), "loading", "loading meta-llama/x"),
        (("reading the data",), "loading", "reading the data"),
        (
            ("1,000 rows, 20 steps, on cuda in bfloat16", "noise"),
            "training",
            "1,000 rows, 20 steps, on cuda in",
        ),
        (("step 3/20  loss 1.2", "step 4/20  loss 1.1  9 tokens/s"), "training", "step 4/20  loss 1.1"),
        (("step 20/20  loss 1.0", "writing the adapter"), "publishing", "writing the adapter"),
        (
            ("publishing to gs://b/x", "publishing to gs://b/x: 5 of 10"),
            "publishing",
            "publishing to gs://b/x: 5",
        ),
    ],
)
def test_a_running_pod_is_where_its_last_line_says(lines: tuple[str, ...], phase: str, shown: str) -> None:
    assert printed(lines)[1].startswith(shown)
    state = look(Observation(job(), (running(),), lines=lines))
    assert state.phase == phase


def test_an_evicted_pod_and_its_replacement() -> None:
    gone = ended(75, "old", conditions=EVICTED)
    state = look(Observation(job(), (gone,)))
    assert state.phase == "replaced"
    assert (
        "evicted: a pod of higher priority has its place (PreemptionByScheduler: spot); another"
        in state.detail
    )
    new = pod("new", created="2026-11-24T00:05:00Z", node="", conditions=UNPLACED)
    assert look(Observation(job(), (gone, new))).phase == "queued"
    assert (
        look(Observation(job(), (gone, running("new", created="2026-11-24T00:05:00Z")))).phase == "starting"
    )


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "TerminationByKubelet",
            "its node shuts down, as when Spot is taken back, or is short of memory or disk",
        ),
        ("DeletionByTaintManager", "its node does not answer, or is tainted"),
        ("DeletionByPodGC", "its node is gone"),
        ("EvictionByEvictionAPI", "its node is drained, as for an upgrade"),
        ("SomethingNew", "SomethingNew: more words"),
    ],
)
def test_why_a_pod_was_taken_away_is_said_in_words(word: str, said: str) -> None:
    told = disruption(Reason(word, "more words"))
    assert told == (said if word == "SomethingNew" else f"{said} ({word}: more words)")


@pytest.mark.parametrize("reason", ["NodeLost", "Evicted", "NodeShutdown"])
def test_a_pod_whose_node_went_is_replaced(reason: str) -> None:
    lost = pod(phase="Failed", reason=reason, message="The node had condition: [DiskPressure]")
    state = look(Observation(job(), (lost,)))
    assert state.phase == "replaced"
    assert reason in state.detail


def test_a_node_that_does_not_answer_is_told_until_it_is_back() -> None:
    unready = [{"type": "Ready", "status": "False"}]
    told = (event("NodeNotReady", "Node is not ready"),)
    state = look(Observation(job(), (running(conditions=unready),), told))
    assert (state.phase, state.stuck) == ("stopping", False)
    assert "the node n1 does not answer; if it stays so, the pod is replaced" in state.detail
    ready = [{"type": "Ready", "status": "True"}]
    back = Observation(job(), (running(conditions=ready),), told, lines=("step 3/9",))
    assert look(back).phase == "training"
    starting = Observation(job(), (running(conditions=unready),), (), lines=("loading x",))
    assert look(starting).phase == "loading", "a pod that has just begun is not ready either"


def test_a_failure_that_counts_is_tried_again() -> None:
    state = look(Observation(job(), (ended(69),)))
    assert state.phase == "replaced"
    assert "exit code 69" in state.detail


def test_a_pod_that_is_taken_down() -> None:
    assert look(Observation(job(), (running(deleted=True),))).phase == "stopping"
    deleted = job()
    deleted["metadata"]["deletionTimestamp"] = "now"
    assert look(Observation(deleted, (running(),))).phase == "stopping"


def test_no_job() -> None:
    assert look(Observation(None)).over


@pytest.mark.parametrize(("kind", "condition"), [("Job", "Complete"), ("JobSet", "Completed")])
def test_the_good_end(kind: str, condition: str) -> None:
    state = look(Observation(job({"type": condition}, kind=kind), (ended(0),)))
    assert (state.phase, state.exit_code) == ("succeeded", 0)


FAILED = {"type": "Failed", "reason": "PodFailurePolicy", "message": ""}


@pytest.mark.parametrize("code", sorted(BY_EXIT_CODE))
def test_the_exit_code_is_the_containers(code: int) -> None:
    state = look(Observation(job(FAILED), (ended(code),)))
    assert (state.phase, state.exit_code) == ("failed", code)
    assert meaning(code) in spoken(state)


@pytest.mark.parametrize(
    ("pods", "told", "code", "said"),
    [
        ([ended(137, reason="OOMKilled")], {}, 71, "OOMKilled"),
        ([ended(137)], {}, 70, "killed"),
        ([ended(1)], {}, 70, "nobody foresaw"),
        ([ended(69, "a", index=0), ended(65, "b", index=1)], {}, 65, "bad"),
        ([ended(75, "old", conditions=EVICTED), ended(79, "new", created="2026-11-25T")], {}, 79, "NaN"),
        (
            [],
            {"message": "Container trainer for pod default/p failed with exit code 78 matching FailJob"},
            78,
            "78",
        ),
        ([ended(137, "old", conditions=EVICTED), ended(69, "new")], {}, 69, "exit code 69"),
        ([], {"reason": "DeadlineExceeded"}, 76, "time limit"),
        (
            [],
            {"reason": "BackoffLimitExceeded", "message": "too often"},
            70,
            "BackoffLimitExceeded: too often",
        ),
    ],
)
def test_the_bad_end(pods: list[Object], told: Object, code: int, said: str) -> None:
    state = look(Observation(job(FAILED | told), tuple(pods)))
    assert (state.phase, state.exit_code) == ("failed", code)
    assert said in state.detail


def test_the_trainers_own_words_are_told_at_the_end() -> None:
    lines = ("step 3/9", "error: row 7: has no answer", "hint: remove it", "bye")
    state = look(Observation(job(FAILED), (ended(65),), lines=lines))
    assert (state.detail, state.hint) == ("row 7: has no answer", "remove it")


def test_several_nodes_are_where_the_slowest_is() -> None:
    first = running("a", index=0)
    second = pod("b", index=1, node="", conditions=UNPLACED)
    state = look(Observation(job(kind="JobSet"), (first, second), lines=("loading x",)))
    assert state.phase == "queued"
    assert state.detail.startswith("1 of 2 nodes run; ")
    both = (first, running("b", index=1))
    assert look(Observation(job(kind="JobSet"), both, lines=("step 1/2",))).phase == "training"
    stuck = waiting("ImagePullBackOff", "denied", index=1)
    stuck["metadata"]["name"] = "c"
    assert look(Observation(job(kind="JobSet"), (first, stuck))).stuck


def test_what_was_said_is_one_line() -> None:
    assert spoken(State("queued", "waits")) == "queued: waits"
    ended = "the trainer ended with exit code 79: it diverged"
    assert spoken(State("failed", ended, exit_code=79)) == f"failed: {ended}", "once is enough"
    unknown = State("failed", "the trainer ended with exit code 1: what is that", exit_code=70)
    assert spoken(unknown).endswith("what is that (exit code 70, something that nobody foresaw)")
    assert Ended(0, "Completed").exit_code == 0
