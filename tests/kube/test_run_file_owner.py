"""The ConfigMap with a run's file ends with its job, and with no other one's."""

from __future__ import annotations

import pytest
from standins.kube_api import Fault
from standins.kube_store import Object
from standins.kube_story import Cluster, wait_until
from submitted import Site, start

from packtrain.kube.api import CONFIG_MAP
from packtrain.kube.api import Cluster as Api
from packtrain.kube.begin import give, make


def stays(cluster: Cluster, job: Object) -> None:
    """A run that goes on."""
    start(cluster, job)


def owners(site: Site) -> list[str]:
    (found,) = site.api.find("ConfigMap")
    return [owner["uid"] for owner in found["metadata"].get("ownerReferences", [])]


def uid(site: Site) -> str:
    return str(site.api.get("Job", "train")["metadata"]["uid"])


@pytest.mark.parametrize("nodes", [1, 2])
def test_it_goes_with_its_job(site: Site, nodes: int) -> None:
    site.play(stays)
    assert site.packtrain("submit", site.run_file(cluster__nodes=nodes), "--detach").code == 0
    kind = "Job" if nodes == 1 else "JobSet"
    (found,) = site.api.find("ConfigMap")
    job = site.api.get(kind, "train")
    assert found["metadata"]["ownerReferences"][-1] == {
        **{"apiVersion": job["apiVersion"], "kind": kind, "name": "train"},
        "uid": job["metadata"]["uid"],
    }
    assert found["immutable"] is True
    site.api.delete(kind, "train", policy="Foreground")  # as the TTL controller does
    wait_until(lambda: site.api.find("ConfigMap") == [])


def test_a_job_that_is_made_again_owns_it_again(site: Site) -> None:
    def fails(cluster: Cluster, job: Object) -> None:
        start(cluster, job).exit(74)
        cluster.fail(job)

    run = site.run_file()
    site.play(fails)
    assert site.packtrain("submit", run).code == 74
    first = uid(site)
    site.play(stays)
    assert site.packtrain("submit", run, "--detach").code == 0
    assert uid(site) != first
    assert uid(site) in owners(site)


def test_a_submit_that_was_cut_before_is_made_up_for(site: Site) -> None:
    site.play(stays)
    site.api.faults.add("PATCH", "/configmaps/", Fault(403), times=None)
    run = site.run_file()
    assert site.packtrain("submit", run, "--detach").code == 0, "a right that is missing ends no submit"
    assert owners(site) == []
    site.api.faults.clear()
    assert site.packtrain("submit", run, "--detach").code == 0
    assert owners(site) == [uid(site)]


def test_one_that_nobody_owns_is_deleted_by_hand(site: Site) -> None:
    site.play(stays)
    site.api.faults.add("PATCH", "/configmaps/", Fault(403), times=None)
    run = site.run_file()
    assert site.packtrain("submit", run, "--detach").code == 0
    site.api.delete("Job", "train")
    ended = site.packtrain("delete", run, "--yes")
    assert ended.code == 0, ended.err
    assert "ConfigMap train-" in ended.out
    assert site.api.find("ConfigMap") == []


def test_a_preflight_of_the_same_file_takes_it_from_nobody(site: Site) -> None:
    site.play(stays)
    assert site.packtrain("submit", site.run_file(), "--detach").code == 0
    (found,) = site.api.find("ConfigMap")
    api = Api.open(site.folder / "kubeconfig", "the cluster", "default")
    spec = {"template": {"spec": {"containers": [{"name": "a"}]}}}
    other = site.api.create("Job", "train-preflight", spec=spec)
    give(api, found, other)
    assert len(owners(site)) == 2
    site.api.delete("Job", "train-preflight")
    wait_until(lambda: owners(site) == [uid(site)])
    api.close()


def test_one_that_was_collected_meanwhile_is_made_again(site: Site) -> None:
    site.play(stays)
    assert site.packtrain("submit", site.run_file(), "--detach").code == 0
    (run_file,) = site.api.find("ConfigMap")
    api = Api.open(site.folder / "kubeconfig", "the cluster", "default")
    site.api.delete("ConfigMap", run_file["metadata"]["name"])
    give(api, run_file, site.api.get("Job", "train"))
    made = api.get(CONFIG_MAP, run_file["metadata"]["name"])
    assert made is not None
    assert made["data"] == run_file["data"]
    assert make(api, [run_file, site.api.get("Job", "train")])["metadata"]["uid"] == uid(site)
    assert owners(site) == [uid(site)]
    api.close()
