"""Destroy removes what setup made and nothing else, says what stays, and can be cut anywhere."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from setups import EVERYTHING, Setup, site
from standins.fake_programs import Cut, FakePrograms, cut_at

from packtrain.errors import AccessError, ConflictError
from packtrain.gcp.commands import Command, Finished
from packtrain.gcp.destroy import refuse_while_running
from packtrain.gcp.inside import GOOGLE_ACCOUNT
from packtrain.gcp.setup import Options
from packtrain.gcp.shown import undo_script
from packtrain.kube.names import labels

CLASSICAL = Options(True, True, True, has_token=True)
#: The whole project as somebody else has made it, all right for a run.
THEIRS: dict[str, dict[str, Any]] = {
    "buckets gs://my-bucket": {
        "location": "us-central1",
        "uniform_bucket_level_access": True,
        "public_access_prevention": "enforced",
    },
    "repositories packtrain": {"format": "DOCKER"},
    "clusters trainer": {"workloadIdentityConfig": {"workloadPool": "my-project.svc.id.goog"}},
    "node-pools gpus": {"name": "gpus", "config": {"machineType": "a3-megagpu-8g", "spot": True}},
    "kube namespace training": {"metadata": {"name": "training"}},
    "kube serviceaccount llama3-finetuner-ksa in training": {"metadata": {"name": "llama3-finetuner-ksa"}},
    "kube secret huggingface-secret in training": {
        "metadata": {"name": "huggingface-secret"},
        "stringData": {"token": "x"},
    },
}


def laptop(tmp_path: Path, cloud: FakePrograms, options: Options = EVERYTHING, **cluster: Any) -> Setup:
    return Setup(site(**cluster), cloud, tmp_path, options)


@pytest.mark.parametrize("options", [EVERYTHING, CLASSICAL], ids=["direct", "classical"])
@pytest.mark.parametrize("nodes", [1, 2])
def test_another_laptop_takes_back_all_that_setup_made(tmp_path: Path, options: Options, nodes: int) -> None:
    cloud = FakePrograms()
    laptop(tmp_path / "one", cloud, options, nodes=nodes).run()
    laptop(tmp_path / "two", cloud, Options(), nodes=nodes).destroy()
    assert cloud.state == {}
    assert [pair for pairs in cloud.policies.values() for pair in pairs] == []
    assert len(cloud.services) == 9, "enabled services stay"


def test_another_laptop_finds_its_own_way_into_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PACKTRAIN_KUBECONFIG", raising=False)
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))
    cloud = FakePrograms()
    laptop(tmp_path / "one", cloud).run()
    cloud.ran.clear()

    def no_way_in(command: Command) -> Finished | None:
        if command.argv[0] != "kubectl" or any("get-credentials" in each.argv for each in cloud.ran):
            return None
        return Finished(1, "", "The connection to the server localhost:8080 was refused")

    cloud.fails = no_way_in
    other = laptop(tmp_path / "two", cloud, Options())
    printed = undo_script(other.site, other.undo_plan())
    assert printed.index("get-credentials") < printed.index("kubectl delete")
    cloud.ran.clear()
    other.destroy()
    assert cloud.state == {}


@pytest.mark.parametrize("options", [EVERYTHING, CLASSICAL], ids=["direct", "classical"])
def test_what_others_made_is_left_as_it_was(tmp_path: Path, options: Options) -> None:
    cloud = FakePrograms(state=copy.deepcopy(THEIRS))
    cloud.policies["buckets gs://my-bucket"] = [("roles/storage.objectUser", "user:a@b.c")]
    before = copy.deepcopy((cloud.state, cloud.policies))
    setup = laptop(tmp_path, cloud, options)
    setup.run()
    assert len(cloud.policies["buckets gs://my-bucket"]) == 2
    if options is CLASSICAL:  # destroy takes back packtrain's notes; the annotation is the user's to judge
        account = cloud.state["kube serviceaccount llama3-finetuner-ksa in training"]
        del account["metadata"]["annotations"][GOOGLE_ACCOUNT]
    undone = {each.step.key: each.undo for each in setup.undo_plan()}
    assert undone["bucket.my-bucket"].action == "leave"
    assert "was not made by packtrain" in undone["bucket.my-bucket"].sentence
    setup.destroy()
    for key in cloud.state.values():
        if not key.get("metadata", {}).get("annotations", True):
            del key["metadata"]["annotations"]
    policies = {key: pairs for key, pairs in cloud.policies.items() if pairs}
    assert (cloud.state, policies) == before


def test_a_right_that_was_given_by_hand_stays_and_is_told(tmp_path: Path) -> None:
    cloud = FakePrograms(state=copy.deepcopy(THEIRS))
    member = site().principal.replace("$PROJECT_NUMBER", "123456789012")
    cloud.policies["buckets gs://my-bucket"] = [("roles/storage.objectUser", member)]
    setup = laptop(tmp_path, cloud)
    setup.run()
    undone = {each.step.key: each.undo for each in setup.undo_plan()}["bucket-access.my-bucket"]
    assert undone.action == "leave"
    assert "gcloud storage buckets remove-iam-policy-binding gs://my-bucket" in undone.sentence
    setup.destroy()
    assert cloud.policies["buckets gs://my-bucket"] == [("roles/storage.objectUser", member)]


def test_a_bucket_with_objects_goes_only_when_it_is_asked_for(tmp_path: Path) -> None:
    cloud = FakePrograms()
    laptop(tmp_path, cloud).run()
    cloud.objects["gs://my-bucket"] = ["final_model/adapter.safetensors"]
    setup = laptop(tmp_path, cloud)
    undone = {each.step.key: each.undo for each in setup.undo_plan()}["bucket.my-bucket"]
    assert (undone.action, "--delete-data" in undone.sentence) == ("leave", True)
    setup.destroy()
    assert list(cloud.state) == ["buckets gs://my-bucket"]
    laptop(tmp_path, cloud, Options(delete_data=True)).destroy()
    assert cloud.state == {}


@pytest.mark.parametrize("before", [True, False], ids=["before the command", "after it, before its answer"])
def test_a_destroy_that_is_killed_at_any_command_is_ended_by_the_next(tmp_path: Path, before: bool) -> None:
    made = FakePrograms()
    laptop(tmp_path, made, CLASSICAL, nodes=2).run()
    whole = copy.deepcopy(made)
    whole.ran.clear()
    laptop(tmp_path, whole, CLASSICAL, nodes=2).destroy()
    assert len(whole.changes) > 30
    for at in range(0, len(whole.changes)):
        cloud = copy.deepcopy(made)
        cut_at(cloud, at, before=before)
        with pytest.raises(Cut):
            laptop(tmp_path, cloud, CLASSICAL, nodes=2).destroy()
        cloud.fails = lambda _: None
        laptop(tmp_path, cloud, CLASSICAL, nodes=2).destroy()
        assert cloud.state == {}, whole.changes[at].argv


def test_a_destroy_that_is_refused_stops_there(tmp_path: Path) -> None:
    cloud = FakePrograms()
    laptop(tmp_path, cloud).run()
    denied = Finished(1, "", "ERROR: (gcloud.container.clusters.delete) ResponseError: code=403, message=no")
    cloud.fails = lambda each: denied if each.argv[1:4] == ("container", "clusters", "delete") else None
    with pytest.raises(AccessError):
        laptop(tmp_path, cloud).destroy()
    assert "clusters trainer" in cloud.state
    assert "buckets gs://my-bucket" in cloud.state, "what comes after it is not touched"


def pod(name: str, phase: str, **labelled: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labelled}, "status": {"phase": phase}}


def test_a_namespace_with_others_objects_stays(tmp_path: Path) -> None:
    cloud = FakePrograms()
    setup = laptop(tmp_path, cloud)
    setup.run()
    cloud.state["kube pod web in training"] = pod("web", "Running", app="web")
    undone = {each.step.key: each.undo for each in setup.undo_plan()}["namespace"]
    assert (undone.action, "others' objects: web" in undone.sentence) == ("leave", True)


def test_what_another_run_file_uses_in_the_namespace_stays(tmp_path: Path) -> None:
    cloud = FakePrograms()
    laptop(tmp_path / "a", cloud).run()
    laptop(tmp_path / "b", cloud, service_account="other-ksa").run()
    undone = {each.step.key: each.undo for each in laptop(tmp_path / "a", cloud).undo_plan()}
    for key in ("namespace", "secret"):
        assert (undone[key].action, "other-ksa" in undone[key].sentence) == ("leave", True)
    assert undone["service-account"].action == "remove"


def test_nothing_is_destroyed_while_a_run_goes_on(tmp_path: Path) -> None:
    cloud = FakePrograms()
    laptop(tmp_path, cloud).run()
    refuse_while_running(site(), cloud)
    key = "kube pod llama-0 in training"
    cloud.state[key] = pod("llama-0", "Succeeded", **labels("llama", "01ABC"))
    refuse_while_running(site(), cloud)
    cloud.state[key]["status"]["phase"] = "Running"
    with pytest.raises(ConflictError, match="still running: llama") as raised:
        refuse_while_running(site(), cloud)
    assert "packtrain cancel" in str(raised.value.hint)


def test_a_project_without_anything_of_ours(tmp_path: Path) -> None:
    cloud = FakePrograms()
    assert {each.undo.action for each in laptop(tmp_path, cloud).undo_plan()} <= {"gone", "leave"}
    laptop(tmp_path, cloud).destroy()
    assert cloud.changes == []
