"""``cloud check`` only looks: rights, quota by the right metric, zones, versions; and its exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from setups import EVERYTHING, Setup, config, site
from standins.fake_programs import FakePrograms

from packtrain.config import RunConfig
from packtrain.errors import AccessError, ConfigError, UnavailableError
from packtrain.gcp.check import Finding, from_plan, look_around, version_key, worst
from packtrain.gcp.permissions import NEEDED
from packtrain.gcp.rights import held_permissions
from packtrain.gcp.setup import Options
from packtrain.gcp.site import site_of
from packtrain.plan.machines import Capacity

EVERY_RIGHT = sorted({each for some in NEEDED.values() for each in some})


def all_held(project: str, permissions: Sequence[str], token: str) -> set[str]:
    assert (project, token) == ("my-project", "an-access-token")
    return set(permissions)


def ready(tmp_path: Path, **cluster: Any) -> FakePrograms:
    cloud = FakePrograms()
    Setup(site(**cluster), cloud, tmp_path).run()
    name = site(**cluster).machine.name
    cloud.state["regions us-central1"] = {"quotas": [quota("NVIDIA_H100_MEGA_GPUS", 64)]}
    cloud.state["machine-types x"] = {"name": name, "zone": "https://x/zones/us-central1-a"}
    return cloud


def quota(metric: str, limit: float, usage: float = 0.0) -> dict[str, Any]:
    return {"metric": metric, "limit": limit, "usage": usage}


def findings(cloud: FakePrograms, options: Options = EVERYTHING, **cluster: Any) -> dict[str, Finding]:
    before = len(cloud.changes)
    found = look_around(site(**cluster), options, cloud, all_held)
    assert len(cloud.changes) == before
    return {finding.title.split()[0]: finding for finding in found}


@pytest.mark.parametrize(
    ("capacity", "metric"),
    [
        ("on-demand", "NVIDIA_H100_MEGA_GPUS"),
        ("spot", "PREEMPTIBLE_NVIDIA_H100_MEGA_GPUS"),
        ("flex-start", "PREEMPTIBLE_NVIDIA_H100_MEGA_GPUS"),
        ("queued", "PREEMPTIBLE_NVIDIA_H100_MEGA_GPUS"),
    ],
)
def test_quota_is_asked_by_the_metric_of_machine_and_capacity(
    capacity: Capacity, metric: str, tmp_path: Path
) -> None:
    cloud = ready(tmp_path, capacity=capacity)
    other = {"NVIDIA_H100_MEGA_GPUS", "PREEMPTIBLE_NVIDIA_H100_MEGA_GPUS"} - {metric}
    quotas = [quota(metric, 8), *(quota(name, 0) for name in other)]
    cloud.state["regions us-central1"] = {"quotas": quotas}
    found = findings(cloud, capacity=capacity)["quota"]
    assert (found.verdict, metric in found.title) == ("ok", True)
    quotas[0]["limit"] = 0
    found = findings(cloud, capacity=capacity)["quota"]
    assert (found.verdict, found.exit_code) == ("failed", 76)
    assert found.sentence == "0 GPUs, 0 used; 8 are needed"
    assert "project=my-project" in str(found.hint)
    quotas[0] |= {"limit": 16, "usage": 12}
    assert findings(cloud, capacity=capacity)["quota"].verdict == "note", "others will be done"
    quotas.clear()
    assert findings(cloud, capacity=capacity)["quota"].verdict == "note"


def test_a_reservation_has_its_quota() -> None:
    run: dict[str, Any] = {"capacity": "reservation", "reservation": "r"}
    assert findings(FakePrograms(state={"regions us-central1": {}}), **run)["quota"].verdict == "ok"


def test_zones_that_have_the_machine(tmp_path: Path) -> None:
    cloud = ready(tmp_path)
    assert findings(cloud)["zones"].sentence == "us-central1-a"
    assert findings(cloud, Options(zone="us-central1-a"))["zones"].verdict == "ok"
    wrong = findings(cloud, Options(zone="us-central1-f"))["zones"]
    assert (wrong.verdict, wrong.exit_code, "us-central1-a" in str(wrong.hint)) == ("failed", 76, True)
    assert findings(cloud, location="us-central1-b")["zones"].verdict == "failed"
    assert findings(cloud, location="europe-west4")["zones"].verdict == "failed"


@pytest.mark.parametrize(
    ("version", "cluster", "verdict"),
    [
        ("1.32.2-gke.1651999", {"capacity": "flex-start"}, "failed"),
        ("1.32.2-gke.1652000", {"capacity": "flex-start"}, "ok"),
        ("1.31.9-gke.9999999", {"capacity": "queued"}, "failed"),
        ("1.28.9-gke.100", {"capacity": "on-demand", "nodes": 2}, "failed"),
        ("1.28.9-gke.100", {"capacity": "on-demand"}, "ok"),
        ("1.34.9-gke.100", {"capacity": "spot"}, "note"),
        ("1.35.0-gke.1171000", {"capacity": "spot"}, "ok"),
    ],
)
def test_versions(version: str, cluster: dict[str, Any], verdict: str, tmp_path: Path) -> None:
    cloud = ready(tmp_path, **cluster)
    cloud.state["clusters trainer"]["currentMasterVersion"] = version
    found = findings(cloud, **cluster)["GKE"]
    assert found.verdict == verdict
    assert verdict != "failed" or "gcloud container clusters upgrade trainer" in str(found.hint)


def test_versions_compare_as_numbers() -> None:
    assert version_key("1.9.10-gke.2") < version_key("1.10.0-gke.1") < version_key("1.10.0-gke.12")


def test_missing_rights_are_named_with_the_roles_that_have_them(tmp_path: Path) -> None:
    cloud = ready(tmp_path)

    def some(_: str, permissions: Sequence[str], __: str) -> set[str]:
        return {each for each in permissions if "setIamPolicy" not in each}

    found = look_around(site(), EVERYTHING, cloud, some)[0]
    assert "storage.buckets.setIamPolicy" in found.sentence
    assert "roles/storage.admin" in str(found.hint)
    assert "artifactregistry.repositories.setIamPolicy" in found.sentence
    assert "container.clusters.create" not in found.sentence


def test_a_failed_question_is_a_finding_of_its_own(tmp_path: Path) -> None:
    cloud = ready(tmp_path)

    def refused(_: str, __: Sequence[str], ___: str) -> set[str]:
        raise AccessError("no", hint="yes")

    found = look_around(site(), EVERYTHING, cloud, refused)
    assert (found[0].verdict, found[0].exit_code, found[0].hint) == ("failed", 77, "yes")
    assert len(found) == 4


def test_the_plan_as_findings(tmp_path: Path) -> None:
    setup = Setup(site(), FakePrograms(), tmp_path, Options(has_token=True))
    nothing = from_plan(setup.plan())
    assert worst(nothing) == 78
    cloud = ready(tmp_path)
    assert worst(from_plan(Setup(site(), cloud, tmp_path, Options(has_token=True)).plan())) == 0
    del cloud.state["kube secret huggingface-secret in training"]
    without = from_plan(Setup(site(), cloud, tmp_path, Options()).plan())
    assert [each.verdict for each in without if "Secret" in each.title] == ["note"]
    assert worst(without) == 0, "public models need no token"


def test_the_gravest_finding_is_the_exit_code() -> None:
    codes = [0, 78, 76, 69, 77]
    for count in range(1, len(codes) + 1):
        assert worst([Finding("t", "failed", "s", None, code) for code in codes[:count]]) == codes[count - 1]
    assert worst([]) == 0


def test_rights_are_asked_where_gcloud_would_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    from standins.google_cloud import serve_google_cloud

    name = "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER"
    with serve_google_cloud() as cloud:
        monkeypatch.setenv(name, f"{cloud.url}/")
        cloud.permissions = {"storage.buckets.create"}
        held = held_permissions("my-project", EVERY_RIGHT, "token")
        assert held == {"storage.buckets.create"}
        with pytest.raises(AccessError, match="the project other does not tell"):
            held_permissions("other", EVERY_RIGHT, "token")
        cloud.fail("POST", "testIamPermissions", 500, "x")
        with pytest.raises(UnavailableError, match="status 500"):
            held_permissions("my-project", EVERY_RIGHT, "token")
    with pytest.raises(UnavailableError, match="is not reached"):
        held_permissions("my-project", EVERY_RIGHT, "token")


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"project": None}, "cluster.project: is needed"),
        ({"project": "My Project"}, "cluster.project: 'My Project' cannot be"),
        ({"project": "--help"}, "cannot be"),
        ({"project": "123456789012"}, "not its name or number"),
        ({"location": "Iowa"}, "cluster.location: 'Iowa' cannot be"),
        ({"location": "us-central1; rm"}, "cannot be"),
        ({"name": "-x"}, "cluster.name: '-x' cannot be"),
        ({"node_pool": "--all"}, "cluster.node_pool: '--all' cannot be"),
        ({"capacity": "reservation"}, "cluster.reservation: is needed"),
        ({"machine": "a3-megagpu-8"}, "a3-megagpu-8"),
    ],
)
def test_a_run_file_that_leads_to_no_cloud(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        site(**keys)


def test_all_that_is_missing_is_told_at_once() -> None:
    run = RunConfig.model_validate({"name": "a", "model": {"source": "m/m"}, "data": {"train": "a/b"}})
    with pytest.raises(ConfigError) as raised:
        site_of(run)
    told = str(raised.value)
    for key in ("cluster.project", "cluster.location", "cluster.name", "output.uri"):
        assert key in told


def test_places_of_a_site() -> None:
    of = site(location="europe-west4-b")
    assert (of.region, of.repository and of.repository.region) == ("europe-west4", "europe-west4")
    image = "us-docker.pkg.dev/images/ml-containers/llama:v1"
    named = site(image=image).repository
    assert named is not None
    assert (named.region, named.project, named.name) == ("us", "images", "ml-containers")
    assert site(image="docker.io/me/llama:v1").repository is None
    two = config()
    two = two.model_copy(update={"output": two.output.model_copy(update={"run_uri": "gs://runs/x"})})
    assert site_of(two).buckets == ("my-bucket", "runs")
    with pytest.raises(ConfigError, match="is not in the region"):
        Setup(site(), FakePrograms(), Path(), Options(zone="europe-west4-a")).plan()
    with pytest.raises(ConfigError, match="6 to 30"):
        Setup(site(service_account="ksa"), FakePrograms(), Path(), Options(via_service_account=True)).plan()
