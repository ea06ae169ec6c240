"""What manifests say: the facts of GKE that a run depends on, over machines, nodes, capacity and queue."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from launches import RUN_ID, cluster_id, config_of, every_cluster, launch_of

from packtrain.errors import BY_EXIT_CODE
from packtrain.kube import pins
from packtrain.kube.fabrics import fabric_between
from packtrain.kube.launch import Launch
from packtrain.kube.manifests import render, to_yaml
from packtrain.kube.names import TOKEN_SECRET
from packtrain.kube.preflight import render_preflight
from packtrain.kube.resources import SYSTEM_MEMORY, allocatable_memory
from packtrain.plan.machines import GIB, machine, price_per_hour
from packtrain.run.supervisor import train_parser

CLUSTERS = every_cluster()
Manifest = dict[str, Any]


def everywhere(test: Callable[[Manifest], None]) -> Callable[[], None]:
    """The test for each machine, number of nodes, capacity and queue; tells at which it failed."""

    @functools.wraps(test)
    def for_each() -> None:
        for cluster in CLUSTERS:
            try:
                test(cluster)
            except AssertionError as error:
                error.add_note(f"at {cluster_id(cluster)}")
                raise

    del for_each.__wrapped__  # pytest would look for a fixture
    return for_each


def workload_of(launch: Launch) -> Manifest:
    return render(launch)[1]


def job_spec(workload: Manifest) -> Manifest:
    """Of a Job, or of the one Job in a JobSet."""
    if workload["kind"] == "Job":
        return dict(workload["spec"])
    (replicated,) = workload["spec"]["replicatedJobs"]
    return dict(replicated["template"]["spec"])


def pod_of(workload: Manifest) -> Manifest:
    return dict(job_spec(workload)["template"])


def trainer_of(pod: Manifest) -> Manifest:
    (container,) = pod["spec"]["containers"]
    return dict(container)


def env_of(container: Manifest) -> dict[str, Any]:
    names = [each["name"] for each in container["env"]]
    assert len(set(names)) == len(names)
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def capabilities(container: Manifest) -> Manifest:
    return dict(container["securityContext"]["capabilities"])


@everywhere
def test_one_node_is_a_job_and_several_are_a_jobset(cluster: Manifest) -> None:
    config_map, workload = render(launch_of(**cluster))
    assert config_map["kind"] == "ConfigMap"
    assert workload["kind"] == ("Job" if cluster["nodes"] == 1 else "JobSet")
    if workload["kind"] == "JobSet":
        (replicated,) = workload["spec"]["replicatedJobs"]
        assert replicated["replicas"] == 1
        spec = job_spec(workload)
        assert (spec["parallelism"], spec["completions"]) == (cluster["nodes"], cluster["nodes"])
        assert (spec["completionMode"], spec["backoffLimit"]) == ("Indexed", 0)
    assert pod_of(workload)["spec"]["restartPolicy"] == "Never"


@everywhere
def test_a_fabric_is_on_several_nodes_that_have_it_and_nowhere_else(cluster: Manifest) -> None:
    launch = launch_of(**cluster)
    fabric = launch.machine.fabric if cluster["nodes"] > 1 else "tcp"
    text = json.dumps(pod_of(workload_of(launch)))
    assert ("networking.gke.io" in text, "hostPath" in text) == (fabric != "tcp", fabric != "tcp")
    assert ("tcpxo" in text, "FASTRAK" in text) == (fabric == "tcpxo", fabric == "tcpxo")
    assert ("tcpx-daemon" in text, "NCCL_GPUDIRECTTCPX_" in text) == (fabric == "tcpx", fabric == "tcpx")
    assert ("gib" in text, "rdma-7" in text) == (fabric == "rdma", fabric == "rdma")
    assert '"privileged"' not in text


@everywhere
def test_one_node_keeps_the_restricted_standard(cluster: Manifest) -> None:
    launch = launch_of(**cluster)
    spec = pod_of(workload_of(launch))["spec"]
    container = trainer_of({"spec": spec})
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    for key in ("hostPID", "hostIPC", "hostNetwork"):
        assert key not in spec
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    fabric = fabric_between(launch.machine, cluster["nodes"])
    # To lock memory that a network card reads and writes.
    locks = fabric is not None and not launch.machine.tcpxo
    assert capabilities(container) == {"drop": ["ALL"]} | ({"add": ["IPC_LOCK"]} if locks else {})
    if fabric is None:
        assert "runAsUser" not in container["securityContext"]
        assert "initContainers" not in spec
        assert {kind for volume in spec["volumes"] for kind in volume if kind != "name"} == {
            "configMap",
            "emptyDir",
        }


@everywhere
def test_a_pod_asks_for_the_machine_and_leaves_the_system_its_share(cluster: Manifest) -> None:
    launch = launch_of(**cluster)
    spec = pod_of(workload_of(launch))["spec"]
    known = launch.machine
    containers = [*spec["containers"], *spec.get("initContainers", [])]
    requests = [each["resources"]["requests"] for each in containers]
    cpus = sum(int(each["cpu"]) for each in requests)
    memory = sum(int(each["memory"].removesuffix("Gi")) for each in requests) * GIB
    assert known.vcpus * 0.7 <= cpus <= known.vcpus - 1
    assert known.memory * 0.6 <= memory <= allocatable_memory(known.memory) - SYSTEM_MEMORY
    container = trainer_of({"spec": spec})
    assert container["resources"]["requests"]["nvidia.com/gpu"] == str(known.gpus)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == str(known.gpus)
    assert container["command"][container["command"].index("--processes") + 1] == str(known.gpus)
    disk = int(container["resources"]["requests"]["ephemeral-storage"].removesuffix("Gi")) * GIB
    assert disk <= known.local_ssd_bytes * 0.75
    (shared,) = (each for each in spec["volumes"] if each["name"] == "shared-memory")
    assert shared["emptyDir"]["medium"] == "Memory"
    assert int(shared["emptyDir"]["sizeLimit"].removesuffix("Gi")) * GIB < memory / 4


@everywhere
def test_nodes_are_chosen_by_machine_and_capacity(cluster: Manifest) -> None:
    launch = launch_of(**cluster)
    spec = pod_of(workload_of(launch))["spec"]
    selector, capacity = spec["nodeSelector"], cluster["capacity"]
    assert selector["cloud.google.com/gke-accelerator"] == launch.machine.accelerator
    assert selector["node.kubernetes.io/instance-type"] == launch.machine.name
    tolerated = {each["key"]: (each["value"], each["effect"]) for each in spec["tolerations"]}
    assert tolerated.pop("nvidia.com/gpu") == ("present", "NoSchedule")
    assert (selector.get("cloud.google.com/gke-spot") == "true") == (capacity == "spot")
    assert (selector.get("cloud.google.com/gke-flex-start") == "true") == (capacity == "flex-start")
    by_pool = capacity in ("queued", "reservation")
    assert ("cloud.google.com/gke-nodepool" in selector) == by_pool
    if by_pool:
        pool = selector["cloud.google.com/gke-nodepool"]
        assert pool == f"packtrain-{launch.machine.name}-{capacity}"
        assert len(pool) <= 40
    wanted = {
        "spot": {"cloud.google.com/gke-spot"},
        "flex-start": {"cloud.google.com/gke-flex-start"},
        "queued": {"cloud.google.com/gke-queued", "cloud.google.com/gke-flex-start"},
    }
    assert tolerated.keys() == wanted.get(capacity, set())
    assert set(tolerated.values()) <= {("true", "NoSchedule")}
    # Who pays for on-demand must not be put on a Spot node whose pool has no taint.
    assert ("affinity" in spec) == (capacity in ("on-demand", "reservation"))


@everywhere
def test_what_kueue_reads_is_on_the_workload_itself_alone(cluster: Manifest) -> None:
    workload = workload_of(launch_of(**cluster))
    labels, annotations = workload["metadata"]["labels"], workload["metadata"]["annotations"]
    assert labels.get("kueue.x-k8s.io/queue-name") == cluster["queue"]
    assert workload["spec"].get("suspend", False) is bool(cluster["queue"])
    duration = "provreq.kueue.x-k8s.io/maxRunDurationSeconds"
    assert (duration in annotations) == (cluster["capacity"] == "queued")
    if duration in annotations:
        assert annotations[duration] == "604800"
    assert "kueue" not in json.dumps(workload["spec"])


@everywhere
def test_every_object_says_whose_it_is(cluster: Manifest) -> None:
    launch = launch_of(**cluster)
    config_map, workload = render(launch)
    pod = pod_of(workload)
    for metadata in (config_map["metadata"], workload["metadata"], pod["metadata"]):
        assert metadata["labels"]["app.kubernetes.io/name"] == "packtrain"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "packtrain"
        assert metadata["labels"]["packtrain.dev/run"] == "llama3-8b-dolly"
        assert metadata["labels"]["packtrain.dev/run-id"] == RUN_ID.lower()
    assert workload["metadata"]["name"] == "llama3-8b-dolly"
    assert (
        workload["metadata"]["annotations"]
        | {
            "packtrain.dev/config-hash": launch.config_hash,
            "packtrain.dev/run-uri": f"gs://my-bucket/packtrain/llama3-8b-dolly/{RUN_ID}",
            "packtrain.dev/output-uri": "gs://my-bucket/final_model",
        }
        == workload["metadata"]["annotations"]
    )


@pytest.mark.parametrize("cluster", CLUSTERS[::37], ids=map(cluster_id, CLUSTERS[::37]))
def test_what_is_rendered_is_the_same_each_time_and_survives_yaml(cluster: Manifest) -> None:
    manifests = render(launch_of(**cluster))
    assert manifests == render(launch_of(config_of(cluster=cluster)))
    text = to_yaml(manifests)
    assert list(yaml.safe_load_all(text)) == manifests
    assert "&id" not in text


def test_the_run_file_is_immutable_and_named_by_its_content() -> None:
    launch = launch_of()
    config_map, workload = render(launch)
    assert config_map["immutable"] is True
    assert config_map["data"] == {"run.yaml": launch.run_yaml}
    assert config_map["metadata"]["name"].startswith("llama3-8b-dolly-")
    volumes = pod_of(workload)["spec"]["volumes"]
    assert {"name": "config", "configMap": {"name": config_map["metadata"]["name"]}} in volumes
    other = render(launch_of(config_of(train={"epochs": 2.0})))[0]
    assert other["metadata"]["name"] != config_map["metadata"]["name"]


def test_a_name_of_forty_characters_fits_everywhere() -> None:
    name = "a" * 40
    for nodes in (1, 16):
        launch = launch_of(config_of(name=name, cluster={"nodes": nodes}))
        names = [each["metadata"]["name"] for each in [*render(launch), *render_preflight(launch)]]
        assert all(len(each) <= 63 for each in names)
        if nodes > 1:
            # Pod names of a JobSet: JOBSET-REPLICATEDJOB-JOB-INDEX-xxxxx.
            assert len(f"{name}-node-0-15-abcde") <= 63


def test_the_command_is_what_the_supervisor_reads() -> None:
    for nodes in (1, 2):
        command = trainer_of(pod_of(workload_of(launch_of(nodes=nodes))))["command"]
        own = command[command.index("python") :]
        assert own[:5] == ["python", "-m", "packtrain.run.supervisor", "--processes", "8"]
        asked = train_parser().parse_args(own[own.index("--") + 1 :])
        assert str(asked.run) == "$(PACKTRAIN_CONFIG)/run.yaml"
        assert asked.run_dir == "$(PACKTRAIN_WORK)/run"


def test_a_variable_stands_after_those_that_it_names() -> None:
    container = trainer_of(pod_of(workload_of(launch_of(nodes=2))))
    known: set[str] = set()
    for each in container["env"]:
        for name in [part.partition(")")[0] for part in str(each.get("value", "")).split("$(")[1:]]:
            assert name in known
        known.add(each["name"])
    for word in container["command"]:
        for name in [part.partition(")")[0] for part in word.split("$(")[1:]]:
            assert name in known


def test_every_path_is_on_a_volume_of_the_pod() -> None:
    container = trainer_of(pod_of(workload_of(launch_of())))
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    env = env_of(container)
    assert mounts[env["PACKTRAIN_CONFIG"]]["readOnly"] is True
    for name in ("PACKTRAIN_WORK", "PACKTRAIN_CACHE", "HF_HOME", "TMPDIR", "HOME"):
        assert env[name].startswith(env["PACKTRAIN_WORK"])
    # The root file system is read-only, and Python looks for a folder that is there.
    assert env["TMPDIR"] in mounts
    assert "/tmp" in mounts


def test_one_node_owns_its_lock_by_the_job_and_several_by_the_jobset() -> None:
    one = env_of(trainer_of(pod_of(workload_of(launch_of()))))
    assert one["PACKTRAIN_OWNER"]["fieldRef"]["fieldPath"].endswith("['batch.kubernetes.io/controller-uid']")
    assert one["PACKTRAIN_NODES"] == "1"
    assert "PACKTRAIN_MASTER_ADDR" not in one
    several = env_of(trainer_of(pod_of(workload_of(launch_of(nodes=4)))))
    assert several["PACKTRAIN_OWNER"]["fieldRef"]["fieldPath"].endswith("['jobset.sigs.k8s.io/jobset-uid']")
    assert several["PACKTRAIN_NODES"] == "4"
    assert several["PACKTRAIN_MASTER_ADDR"] == "llama3-8b-dolly-node-0-0.llama3-8b-dolly"
    assert several["PACKTRAIN_NODE_RANK"]["fieldRef"]["fieldPath"].endswith("job-completion-index']")
    for env in (one, several):
        assert env["PACKTRAIN_RUN_ID"] == RUN_ID
        assert "@sha256:" in env["PACKTRAIN_IMAGE"]


def test_the_token_comes_from_the_secret_and_nothing_else_is_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "A" * 34)
    for nodes in (1, 2):
        manifests = render(launch_of(nodes=nodes))
        env = env_of(trainer_of(pod_of(manifests[1])))
        reference = {"name": TOKEN_SECRET, "key": "token", "optional": True}
        assert env["HF_TOKEN"] == {"secretKeyRef": reference}
        assert "hf_" not in to_yaml(manifests)


def rules_of(launch: Launch) -> list[Manifest]:
    return list(job_spec(workload_of(launch))["podFailurePolicy"]["rules"])


def codes(rule: Manifest) -> list[int]:
    assert rule["onExitCodes"]["containerName"] == "trainer"
    assert rule["onExitCodes"]["operator"] == "In"
    return list(rule["onExitCodes"]["values"])


def test_a_job_gives_up_on_the_codes_that_no_attempt_can_help() -> None:
    disrupted, final, saved = rules_of(launch_of())
    assert disrupted["action"] == "Ignore"
    assert disrupted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert final["action"] == "FailJob"
    assert codes(final) == sorted(code for code, kind in BY_EXIT_CODE.items() if kind.retry == "no")
    assert (saved["action"], codes(saved)) == ("Ignore", [75])
    assert 0 not in codes(final)
    # 69, 70 and 74 are in no rule: they count against the limit.
    assert {69, 70, 74}.isdisjoint({*codes(final), *codes(saved)})
    assert job_spec(workload_of(launch_of()))["backoffLimit"] > 0


def outcome(launch: Launch, message: str, reason: str = "PodFailurePolicy") -> str:
    """What JobSet does with a failed Job: its first rule whose reason and pattern fit."""
    import re

    policy = workload_of(launch)["spec"]["failurePolicy"]
    for rule in policy["rules"]:
        reasons, patterns = rule.get("onJobFailureReasons"), rule.get("onJobFailureMessagePatterns")
        if (not reasons or reason in reasons) and (
            not patterns or any(re.search(each, message) for each in patterns)
        ):
            return str(rule["action"])
    return "RestartJobSet"


def test_a_jobset_tells_preempted_from_broken() -> None:
    launch = launch_of(nodes=2)
    policy = workload_of(launch)["spec"]["failurePolicy"]
    assert policy["restartStrategy"] == "BlockingRecreate"
    assert policy["maxRestarts"] >= 10
    assert [rule["action"] for rule in rules_of(launch)] == ["FailJob"] * 3
    # The Job controller's own words: pkg/controller/job/pod_failure_policy.go.
    preempted = "Pod default/a-node-0-1-x has condition DisruptionTarget matching FailJob rule at index 0"
    assert outcome(launch, preempted) == "RestartJobSetAndIgnoreMaxRestarts"
    ended = (
        "Container trainer for pod default/a-node-0-1-x failed with exit code {} matching FailJob rule at {}"
    )
    assert outcome(launch, ended.format(75, "index 2")) == "RestartJobSetAndIgnoreMaxRestarts"
    for code, kind in BY_EXIT_CODE.items():
        if kind.retry == "no":
            assert outcome(launch, ended.format(code, "index 1")) == "FailJobSet", code
    assert outcome(launch, "Job has reached the specified backoff limit", "BackoffLimitExceeded") == (
        "RestartJobSet"
    )
    assert (
        outcome(launch, "Job was active longer than specified deadline", "DeadlineExceeded") == "FailJobSet"
    )


@pytest.mark.parametrize("nodes", [1, 2])
def test_money_bounds_time_with_slack(nodes: int) -> None:
    assert "activeDeadlineSeconds" not in job_spec(workload_of(launch_of(nodes=nodes)))
    launch = launch_of(nodes=nodes, max_cost="200 USD", queue="team-a")
    price = price_per_hour(machine("a3-megagpu-8g"), "spot").usd
    assert price is not None
    paid = 200 / (price * nodes) * 3600
    workload = workload_of(launch)
    deadline = job_spec(workload)["activeDeadlineSeconds"]
    assert 1.5 * paid < deadline - 86_400 < 3 * paid
    longest = int(workload["metadata"]["labels"]["kueue.x-k8s.io/max-exec-time-seconds"])
    assert 1.5 * paid < longest < 3 * paid
    if nodes > 1:
        assert "activeDeadlineSeconds" not in workload["spec"]  # JobSet has no such field


def test_logs_have_time_to_be_read() -> None:
    for nodes in (1, 2):
        assert workload_of(launch_of(nodes=nodes))["spec"]["ttlSecondsAfterFinished"] >= 86_400


def test_the_grace_is_the_run_files() -> None:
    for grace, wanted in (("15s", 15), ("0.5m", 30), ("20.2s", 21)):
        pod = pod_of(workload_of(launch_of(config_of(checkpoint={"grace": grace}))))
        assert pod["spec"]["terminationGracePeriodSeconds"] == wanted


def test_a_pool_that_is_named_is_taken() -> None:
    for capacity in ("spot", "queued"):
        pod = pod_of(workload_of(launch_of(capacity=capacity, queue="team-a", node_pool="my-pool")))
        assert pod["spec"]["nodeSelector"]["cloud.google.com/gke-nodepool"] == "my-pool"


def tcpxo_pod(**cluster: Any) -> Manifest:
    return pod_of(workload_of(launch_of(nodes=2, **cluster)))


def test_the_daemon_is_a_native_sidecar_with_two_capabilities() -> None:
    (daemon,) = tcpxo_pod()["spec"]["initContainers"]
    assert daemon["restartPolicy"] == "Always"
    assert capabilities(daemon) == {"add": ["NET_ADMIN", "NET_BIND_SERVICE"]}
    assert daemon["startupProbe"]["exec"]["command"] == ["cat", "/run/health-check"]
    assert env_of(daemon)["HEALTH_CHECK_LOG_FILE"] == "/run/health-check"
    assert "--num_hops=2" in daemon["args"][0]
    assert "nvidia.com/gpu" not in json.dumps(daemon["resources"])


def test_plugin_and_daemon_are_a_pair() -> None:
    pinned = pins.tcpxo()
    (daemon,) = tcpxo_pod()["spec"]["initContainers"]
    assert daemon["image"] == pinned.daemon
    pair = (pinned.plugin.rpartition(":")[2], daemon["image"].rpartition(":")[2])
    assert pair == pinned.pairs[0] == ("v1.0.15", "v1.0.21")
    assert len({plugin for plugin, _ in pinned.pairs}) == len(pinned.pairs)


def test_there_are_nine_interfaces_in_valid_json() -> None:
    annotations = tcpxo_pod()["metadata"]["annotations"]
    interfaces = json.loads(annotations["networking.gke.io/interfaces"])
    assert [each["interfaceName"] for each in interfaces] == [f"eth{index}" for index in range(9)]
    assert [each["network"] for each in interfaces] == ["default", *(f"vpc{i}" for i in range(1, 9))]
    assert annotations["networking.gke.io/default-interface"] == "eth0"


def test_the_daemon_gets_its_devices_by_annotation() -> None:
    devices = yaml.safe_load(tcpxo_pod()["metadata"]["annotations"]["devices.gke.io/container.tcpxo-daemon"])
    paths = [each["path"] for each in devices]
    assert paths[:8] == [f"/dev/nvidia{index}" for index in range(8)]
    assert paths[8:] == ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/dmabuf_import_helper"]


def test_the_trainer_of_several_nodes_is_root_without_power() -> None:
    trainer = trainer_of(tcpxo_pod())
    context = trainer["securityContext"]
    assert context["runAsUser"] == 0
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert capabilities(trainer) == {"drop": ["ALL"]}
    mounted = {each["mountPath"] for each in trainer["volumeMounts"]}
    assert {"/usr/local/nvidia", "/dev/aperture_devices"} <= mounted
    assert {"/hostsysfs", "/hostprocsysfs"}.isdisjoint(mounted)


def test_ncclss_profile_comes_first_and_the_shell_becomes_the_supervisor() -> None:
    trainer = trainer_of(tcpxo_pod())
    assert trainer["command"][:2] == ["/bin/sh", "-c"]
    assert trainer["command"][2] == '. "$NCCL_LIB_DIR/nccl-env-profile.sh" && exec "$@"'
    env = env_of(trainer)
    assert env["NCCL_LIB_DIR"] == env["LD_LIBRARY_PATH"] == "/usr/local/nvidia/lib64"
    assert env["NCCL_FASTRAK_LLCM_DEVICE_DIRECTORY"] == "/dev/aperture_devices"


def test_the_nodes_own_network_is_used_only_where_asked_for() -> None:
    assert "hostNetwork" not in tcpxo_pod()["spec"]
    pod = tcpxo_pod(host_network=True)
    assert pod["spec"]["hostNetwork"] is True
    assert pod["spec"]["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert "networking.gke.io/interfaces" not in pod["metadata"]["annotations"]


def test_the_preflight_is_the_same_pod_without_gpus() -> None:
    launch = launch_of(nodes=2, queue="team-a")
    config_map, job = render_preflight(launch)
    assert config_map == render(launch)[0]
    assert job["metadata"]["name"] == "llama3-8b-dolly-preflight"
    assert job["metadata"]["labels"]["packtrain.dev/role"] == "preflight"
    assert "suspend" not in job["spec"]
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    trainer = trainer_of(pod_of(workload_of(launch_of())))
    assert container["command"] == ["python", "-m", "packtrain.run.preflight", "$(PACKTRAIN_CONFIG)/run.yaml"]
    assert container["image"] == trainer["image"]
    assert env_of(container)["HF_TOKEN"] == env_of(trainer)["HF_TOKEN"]
    assert spec["serviceAccountName"] == "packtrain"
    assert container["securityContext"] == trainer["securityContext"]
    text = json.dumps(spec)
    assert "nvidia" not in text
    assert "tolerations" not in spec
    assert job["spec"]["activeDeadlineSeconds"] <= 3600
