"""The setup's steps: from nothing to ready, word by word, cut anywhere and run again."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from setups import EVERYTHING, Setup, config, site
from standins.fake_programs import Cut, FakePrograms, changes, cut_at

from packtrain.errors import AccessError, ConfigError, ConflictError, UnavailableError
from packtrain.gcp.commands import Command, Finished
from packtrain.gcp.inside import GOOGLE_ACCOUNT
from packtrain.gcp.setup import Options, steps
from packtrain.gcp.shown import setup_script
from packtrain.gcp.site import site_of

CLASSICAL = Options(True, True, True, has_token=True)
TWO_NODES: dict[str, Any] = {"nodes": 2, "capacity": "flex-start", "location": "us-central1-a"}
ULTRA: dict[str, Any] = {
    "nodes": 2,
    "machine": "a3-ultragpu-8g",
    "capacity": "reservation",
    "reservation": "r",
}
ACCOUNT = "kube serviceaccount llama3-finetuner-ksa in training"


def laptop(tmp_path: Path, cloud: FakePrograms, options: Options = EVERYTHING, **cluster: Any) -> Setup:
    return Setup(site(**cluster), cloud, tmp_path, options)


def without_addons(states: dict[str, str]) -> dict[str, str]:
    return {key: state for key, state in states.items() if state != "yours"}


@pytest.mark.parametrize("cluster", [{}, TWO_NODES], ids=["one node", "two nodes"])
@pytest.mark.parametrize("options", [EVERYTHING, CLASSICAL], ids=["direct", "classical"])
def test_from_nothing_to_ready_and_then_nothing_to_do(
    tmp_path: Path, options: Options, cluster: dict[str, Any]
) -> None:
    cloud = FakePrograms()
    setup = laptop(tmp_path, cloud, options, **cluster)
    assert set(setup.states().values()) == {"make", "later"}
    assert cloud.changes == [], "looking changes nothing"
    ended = setup.run()
    assert {each.seen.state for each in ended} <= {"there", "yours"}
    done = len(cloud.changes)
    assert set(without_addons(setup.states()).values()) == {"there"}
    setup.run()
    assert len(cloud.changes) == done, "a second run changes nothing"
    assert setup.heard.waits == []
    assert not (tmp_path / "journal.json").exists()


@pytest.mark.parametrize("options", [EVERYTHING, CLASSICAL], ids=["direct", "classical"])
@pytest.mark.parametrize("cluster", [{}, TWO_NODES], ids=["one node", "two nodes"])
def test_what_is_printed_is_what_runs_word_by_word(
    tmp_path: Path, options: Options, cluster: dict[str, Any]
) -> None:
    setup = laptop(tmp_path, FakePrograms(), options, **cluster)
    setup.run()
    ran = [command for _, command in setup.heard.made]
    wanted = [
        command for step in steps(setup.site, options) if step.key != "credentials" for command in step.make
    ]
    assert ran == wanted
    printed = setup_script(setup.site, steps(setup.site, options))
    assert [command.shown() in printed for command in ran] == [True] * len(ran)


@pytest.mark.parametrize(
    ("name", "options", "cluster"),
    [
        ("setup-direct", EVERYTHING, {}),
        ("setup-via-service-account", CLASSICAL, {"machine": "g2-standard-8"}),
        ("setup-two-nodes", EVERYTHING, TWO_NODES),
        ("setup-two-nodes-rdma", replace(EVERYTHING, zone="us-central1-b"), ULTRA),
    ],
)
def test_the_commands_are_those_that_were_reviewed(
    name: str, options: Options, cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACKTRAIN_CACHE", "/home/me/.cache/packtrain")
    monkeypatch.delenv("PACKTRAIN_KUBECONFIG", raising=False)
    of = site(**cluster)
    golden = Path(__file__).parent / "golden" / f"{name}.sh"
    printed = setup_script(of, steps(of, options)) + "\n"
    if os.environ.get("PACKTRAIN_UPDATE"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(printed)
    assert golden.read_text() == printed, "renew it with PACKTRAIN_UPDATE=1, and read the difference"


CAPACITIES = {
    "on-demand": [],
    "spot": ["--spot"],
    "flex-start": ["--flex-start", "--reservation-affinity=none", "--no-enable-autorepair"],
    "queued": [
        "--flex-start",
        "--enable-queued-provisioning",
        "--reservation-affinity=none",
        "--no-enable-autorepair",
    ],
    "reservation": ["--reservation-affinity=specific", "--reservation=r"],
}
SCALING = ["--enable-autoscaling", "--num-nodes=0", "--total-max-nodes=1", "--location-policy=ANY"]


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_a_pool_is_bought_as_the_run_file_says(capacity: str, tmp_path: Path) -> None:
    cloud = FakePrograms()
    setup = laptop(tmp_path, cloud, capacity=capacity, reservation="r")
    setup.run()
    (pool,) = [each for each in cloud.ran if each.argv[:4] == ("gcloud", "container", "node-pools", "create")]
    assert list(pool.argv[8:]) == [
        "--machine-type=a3-megagpu-8g",
        "--accelerator=type=nvidia-h100-mega-80gb,count=8,gpu-driver-version=LATEST",
        "--image-type=COS_CONTAINERD",
        "--ephemeral-storage-local-ssd=count=16",
        "--enable-gvnic",
        "--workload-metadata=GKE_METADATA",
        *SCALING,
        *CAPACITIES[capacity],
        "--labels=managed-by=packtrain",
    ]
    assert setup.states()["pool"] == "there", "and is known again by its description"


@pytest.mark.parametrize("before", [True, False], ids=["before the command", "after it, before its answer"])
@pytest.mark.parametrize(
    ("options", "cluster"),
    [
        pytest.param(EVERYTHING, {}, id="direct"),
        pytest.param(CLASSICAL, TWO_NODES, id="classical, two nodes", marks=pytest.mark.slow),
    ],
)
def test_a_setup_that_is_killed_at_any_command_ends_complete_when_run_again(
    tmp_path: Path, options: Options, cluster: dict[str, Any], before: bool
) -> None:
    whole = FakePrograms()
    laptop(tmp_path / "whole", whole, options, **cluster).run()
    for at in range(len(whole.changes)):
        cloud = FakePrograms()
        cut_at(cloud, at, before=before)
        folder = tmp_path / str(at)
        with pytest.raises(Cut):
            laptop(folder, cloud, options, **cluster).run()
        cloud.fails = lambda _: None
        laptop(folder, cloud, options, **cluster).run()
        assert cloud.state == whole.state, whole.changes[at].argv
        assert cloud.policies == whole.policies
        laptop(folder, cloud, options, **cluster).destroy()
        assert cloud.state == {}, f"destroy knows its own after a cut at {whole.changes[at].argv}"


DENIED = Finished(1, "", "ERROR: (gcloud.x) PERMISSION_DENIED: Permission 'a.b.c' denied")


def test_a_setup_that_is_refused_at_any_command_stops_there_and_goes_on_later(tmp_path: Path) -> None:
    whole = FakePrograms()
    laptop(tmp_path / "whole", whole).run()
    for at, refused in enumerate(whole.changes):
        cloud = FakePrograms()
        setup = laptop(tmp_path / str(at), cloud)

        def deny(command: Command, refused: Command = refused) -> Finished | None:
            return DENIED if command == refused else None

        cloud.fails = deny
        with pytest.raises(AccessError):
            setup.run()
        assert cloud.changes[-1] == refused, "nothing after the failure"
        cloud.fails = lambda _: None
        setup.run()
        assert (cloud.state, cloud.policies) == (whole.state, whole.policies)


def test_what_passes_by_itself_is_tried_again_within_a_limit(tmp_path: Path) -> None:
    cloud = FakePrograms()
    left = {"count": 2}

    def sometimes(command: Command) -> Finished | None:
        if not changes(command) or "clusters" not in command.argv or not left["count"]:
            return None
        left["count"] -= 1
        return Finished(1, "", "ERROR: (gcloud.container.clusters.create) ResponseError: code=503, message=x")

    cloud.fails = sometimes
    setup = laptop(tmp_path, cloud)
    setup.run()
    assert len(setup.heard.waits) == 2
    left["count"] = 1000
    again = laptop(tmp_path / "b", FakePrograms(fails=sometimes))
    with pytest.raises(UnavailableError, match="gcloud container clusters create"):
        again.run()
    assert again.clock.now <= 300


def test_a_service_that_was_just_enabled_is_waited_for(tmp_path: Path) -> None:
    cloud = FakePrograms()
    off = {"count": 3}

    def just_enabled(command: Command) -> Finished | None:
        if "repositories" in command.argv and "create" in command.argv and off["count"]:
            off["count"] -= 1
            said = "Artifact Registry API has not been used in project 1 before or it is disabled."
            return Finished(1, "", f"ERROR: (gcloud) PERMISSION_DENIED: {said}")
        return None

    cloud.fails = just_enabled
    laptop(tmp_path, cloud).run()
    assert off["count"] == 0


def test_a_right_that_is_not_in_force_yet_is_waited_for_and_not_given_twice(tmp_path: Path) -> None:
    cloud = FakePrograms()
    setup = laptop(tmp_path, cloud)

    def slow(command: Command) -> Finished | None:
        reads = "get-iam-policy" in command.argv and "buckets" in command.argv
        return Finished(0, '{"bindings": []}') if reads and setup.clock.now < 60 else None

    cloud.fails = slow
    setup.run()
    given = [
        each
        for each in cloud.changes
        if "add-iam-policy-binding" in each.argv and "gs://my-bucket" in each.argv
    ]
    assert len(given) == 1
    assert 60 <= setup.clock.now <= 120
    never = laptop(tmp_path / "never", cloud)
    cloud.fails = lambda command: (
        Finished(0, '{"bindings": []}')
        if "get-iam-policy" in command.argv and "buckets" in command.argv
        else None
    )
    with pytest.raises(UnavailableError, match="is not in force after 300 seconds") as raised:
        never.run()
    assert "same command" in str(raised.value.hint)


def test_a_cluster_that_another_setup_is_making_is_waited_for(tmp_path: Path) -> None:
    cloud = FakePrograms()
    setup = laptop(tmp_path, cloud)
    setup.run()
    cluster = cloud.state["clusters trainer"]
    cluster["status"] = "PROVISIONING"

    def later(_: Command) -> None:
        if setup.clock.now > 200:
            cluster["status"] = "RUNNING"

    cloud.fails = later
    done = len(cloud.changes)
    setup.run()
    assert len(cloud.changes) == done


def set_value(cloud: FakePrograms, key: str, value: Any, *path: str) -> None:
    at = cloud.state[key]
    for name in path[:-1]:
        at = at.setdefault(name, {})
    at[path[-1]] = value


BLOCKED: dict[str, tuple[tuple[Any, ...], str]] = {
    "a bucket without uniform access": (
        ("buckets gs://my-bucket", False, "uniform_bucket_level_access"),
        "no uniform bucket-level access",
    ),
    "a cluster without Workload Identity": (
        ("clusters trainer", {}, "workloadIdentityConfig"),
        "has no Workload Identity",
    ),
    "a cluster of another pool": (
        ("clusters trainer", "other.svc.id.goog", "workloadIdentityConfig", "workloadPool"),
        "workload pool other.svc.id.goog",
    ),
    "a cluster in error": (("clusters trainer", "ERROR", "status"), "is ERROR"),
    "an account with another annotation": (
        (ACCOUNT, "other@p.iam.gserviceaccount.com", "metadata", "annotations", GOOGLE_ACCOUNT),
        "stands for other@p.iam.gserviceaccount.com",
    ),
    "a repository of another format": (("repositories packtrain", "NPM", "format"), "has the format NPM"),
    "a namespace that is going": (
        ("kube namespace training", "Terminating", "status", "phase"),
        "is being deleted",
    ),
    "a pool that hides identity": (
        (
            "node-pools packtrain-a3-megagpu-8g-spot",
            "GCE_METADATA",
            "config",
            "workloadMetadataConfig",
            "mode",
        ),
        "hides Workload Identity",
    ),
    "a pool of another capacity": (
        ("node-pools packtrain-a3-megagpu-8g-spot", False, "config", "spot"),
        "is on-demand, not spot",
    ),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_what_is_there_and_differs_is_told_and_never_changed(tmp_path: Path, name: str) -> None:
    (key, value, *path), sentence = BLOCKED[name]
    cloud = FakePrograms()
    setup = laptop(tmp_path, cloud)
    setup.run()
    set_value(cloud, key, value, *path)
    cloud.services.clear()
    done = len(cloud.changes)
    with pytest.raises(ConfigError, match=sentence) as raised:
        setup.run()
    assert raised.value.hint
    assert "\n" not in str(raised.value)
    assert len(cloud.changes) == done, "nothing is made before the obstacle is away"


def test_a_bucket_elsewhere_is_used_with_a_word(tmp_path: Path) -> None:
    cloud = FakePrograms()
    setup = laptop(tmp_path, cloud)
    setup.run()
    cloud.state["buckets gs://my-bucket"]["location"] = "EUROPE-WEST4"
    seen = {each.step.key: each.seen for each in setup.run()}["bucket.my-bucket"]
    assert (seen.state, seen.blocks) == ("differs", False)
    assert "in europe-west4, the cluster in us-central1" in seen.sentence


def test_without_the_flags_no_cluster_and_no_pool_is_made(tmp_path: Path) -> None:
    cloud = FakePrograms()
    with pytest.raises(ConfigError, match="there is no cluster trainer in us-central1") as raised:
        laptop(tmp_path, cloud, Options(has_token=True)).run()
    assert "--create-cluster" in str(raised.value.hint)
    assert cloud.changes == []
    seen = {each.step.key: each.seen for each in laptop(tmp_path, cloud, Options(create_cluster=True)).run()}
    assert "--create-pool" in str(seen["pool"].hint)
    assert "HF_TOKEN" in str(seen["secret"].hint), "without a token the Secret is the user's to make"


def test_the_classical_way_annotates_an_account_that_was_there(tmp_path: Path) -> None:
    cloud = FakePrograms()
    laptop(tmp_path, cloud).run()
    cloud.state[ACCOUNT]["metadata"] = {"labels": {"team": "x"}, "annotations": {}}
    laptop(tmp_path, cloud, CLASSICAL).run()
    metadata = cloud.state[ACCOUNT]["metadata"]
    email = "llama3-finetuner-ksa@my-project.iam.gserviceaccount.com"
    assert metadata["annotations"][GOOGLE_ACCOUNT] == email
    assert metadata["labels"] == {"team": "x"}, "and does not take it for its own"


def test_a_token_on_stdin_renews_a_secret_of_ours_alone(tmp_path: Path) -> None:
    cloud = FakePrograms(token="hf_old")
    laptop(tmp_path, cloud).run()
    key = "kube secret huggingface-secret in training"
    renewing = Options(has_token=True, renew_token=True)
    cloud.token = "hf_new"
    laptop(tmp_path, cloud).run()
    assert cloud.state[key]["stringData"] == {"token": "hf_old"}
    laptop(tmp_path, cloud, renewing).run()
    assert cloud.state[key]["stringData"] == {"token": "hf_new"}
    cloud.state[key]["metadata"]["labels"] = {}
    cloud.token = "hf_newer"
    seen = {each.step.key: each.seen for each in laptop(tmp_path, cloud, renewing).run()}["secret"]
    assert seen.state == "differs"
    assert cloud.state[key]["stringData"] == {"token": "hf_new"}, "another's Secret is not written"


def test_several_nodes_need_what_one_does_not(tmp_path: Path) -> None:
    keys = [step.key for step in steps(site(**TWO_NODES), EVERYTHING)]
    assert {"networks", "network-objects", "jobset", "tcpxo-installer", "device-injector"} <= set(keys)
    one = [step.key for step in steps(site(), EVERYTHING)]
    assert not {"networks", "network-objects", "jobset", "tcpxo-installer", "kueue"} & set(one)
    assert "kueue" in [step.key for step in steps(site(queue="team"), EVERYTHING)]
    others = [step.key for step in steps(site(nodes=2, machine="g2-standard-8"), EVERYTHING)]
    assert "networks" not in others, "only machines with GPUDirect-TCPXO have networks of their own"
    cloud = FakePrograms()
    laptop(tmp_path, cloud, **TWO_NODES).run()
    pool = cloud.state["node-pools packtrain-a3-megagpu-8g-flex-start"]
    assert len(pool["networkConfig"]["additionalNodeNetworkConfigs"]) == 8, "a ninth costs a GPU its card"


@pytest.mark.parametrize(
    ("version", "state"), [("v0.10.1", "there"), ("v0.8.0", "yours"), ("", "there"), (None, "yours")]
)
def test_jobset_is_told_with_its_version(tmp_path: Path, version: str | None, state: str) -> None:
    cloud = FakePrograms()
    setup = laptop(tmp_path, cloud, nodes=2, machine="g2-standard-8")
    if version is not None:
        cloud.state["kube customresourcedefinition jobsets.jobset.x-k8s.io"] = {
            "metadata": {"labels": {"app.kubernetes.io/version": version}},
            "spec": {"versions": [{"name": "v1alpha2", "served": True}]},
        }
    seen = {each.step.key: each.seen for each in setup.run()}["jobset"]
    assert seen.state == state
    assert state == "there" or "kubectl apply --server-side -f https://" in str(seen.hint)


def test_a_bucket_that_is_only_read_gets_the_right_to_read(tmp_path: Path) -> None:
    run = config().model_copy(
        update={"data": config().data.model_copy(update={"train": "gs://rows/a.jsonl"})}
    )
    of = site_of(run)
    cloud = FakePrograms()
    cloud.state["buckets gs://rows"] = {"name": "rows"}
    Setup(of, cloud, tmp_path).run()
    assert [role for role, _ in cloud.policies["buckets gs://rows"]] == ["roles/storage.objectViewer"]
    assert "buckets gs://rows" in cloud.state


def test_a_bucket_that_could_not_be_made_is_not_ours_later(tmp_path: Path) -> None:
    cloud = FakePrograms()
    taken = Finished(1, "", "ERROR: (gcloud) HTTPError 409: The requested bucket name is not available. x")
    cloud.fails = lambda each: taken if each.argv[1:4] == ("storage", "buckets", "create") else None
    setup = laptop(tmp_path, cloud)
    with pytest.raises(ConflictError, match="taken by somebody else"):
        setup.run()
    cloud.fails = lambda _: None
    cloud.state["buckets gs://my-bucket"] = {
        "location": "us-central1",
        "uniform_bucket_level_access": True,
        "public_access_prevention": "enforced",
    }
    setup.run()
    assert "labels" not in cloud.state["buckets gs://my-bucket"]
