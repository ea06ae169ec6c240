"""``packtrain logs``: nothing lost, nothing twice, over cut streams and replaced pods."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest
from standins.kube_api import Fault
from standins.kube_store import Object
from standins.kube_story import Cluster, wait_until
from submitted import Site, start

from packtrain.kube import api
from packtrain.kube.log_streams import TRIES, Place


def stamp(second: int, fraction: str = "") -> str:
    return f"2026-11-24T00:00:{second:02d}{fraction}Z"


def test_lines_that_were_read_are_not_said_again() -> None:
    place = Place()
    assert [place.new(f"{stamp(1, '.5')} a"), place.new(f"{stamp(1, '.25')} late"), place.new("no time")] == [
        "a",
        None,
        "no time",
    ]
    assert place.new(f"{stamp(1, '.500000000')} b") == "b", "another line of the same moment"
    assert place.reopen() == {"sinceTime": stamp(1)}
    again = [place.new(f"{stamp(1, fraction)} x") for fraction in (".25", ".5", ".500000000", ".5", ".51")]
    assert again == [None, None, None, "x", "x"]
    assert place.new(f"{stamp(2)} c") == "c"


def lines(*numbers: int) -> list[str]:
    return [f"step {number}/9" for number in numbers]


def test_what_was_printed_is_shown(site: Site) -> None:
    run = site.run_file()
    site.play(lambda cluster, job: start(cluster, job).log(*lines(3)))
    assert site.packtrain("submit", run, "--detach").code == 0
    wait_until(lambda: len(site.packtrain("logs", run).out.splitlines()) == 4)
    assert site.packtrain("logs", run).out.splitlines()[-1] == "step 3/9"
    printed = [json.loads(line) for line in site.packtrain("logs", run, "--json").out.splitlines()]
    assert printed[-1] == {"node": 0, "rank": None, "text": "step 3/9"}


@pytest.mark.parametrize(
    "fault", [Fault(cut_after=2), Fault(end_after=2), Fault(500), Fault(drop=True)], ids=str
)
def test_a_stream_that_breaks_is_gone_on_with(site: Site, fault: Fault) -> None:
    def story(cluster: Cluster, job: Object) -> None:
        pod = cluster.pod(job)
        pod.run()
        pod.log(*lines(1, 2, 3))
        wait_until(lambda: sum("follow=true" in path for _, path in site.api.requests) >= 2)
        pod.log(*lines(4, 5))
        pod.exit(0)
        cluster.complete(job)

    site.api.faults.add("GET", "/log.*follow=true", fault, times=2)
    site.play(story)
    run = site.run_file()
    assert site.packtrain("submit", run, "--detach").code == 0
    ended = site.packtrain("logs", run, "--follow")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == lines(1, 2, 3, 4, 5)


def test_a_pod_that_was_replaced_is_followed_by_its_successor(site: Site) -> None:
    def story(cluster: Cluster, job: Object) -> None:
        first = cluster.pod(job)
        first.run()
        first.log(*lines(1, 2))
        wait_until(lambda: any("follow=true" in path for _, path in site.api.requests))
        first.evict()
        second = cluster.pod(job)
        second.unschedulable("0/1 nodes are available")
        second.run("gpu-node-2")
        second.log("going on after step 2", *lines(3))
        second.exit(0)
        cluster.complete(job)

    site.play(story)
    run = site.run_file()
    assert site.packtrain("submit", run, "--detach").code == 0
    ended = site.packtrain("logs", run, "--follow")
    assert ended.out.splitlines() == [*lines(1, 2), "going on after step 2", *lines(3)]
    assert site.packtrain("logs", run).out.splitlines() == ["going on after step 2", *lines(3)]
    assert site.packtrain("logs", run, "--previous").out.splitlines() == lines(1, 2)


def test_a_pod_whose_log_went_with_its_node_does_not_end_the_following(site: Site) -> None:
    gone = Fault(500, "InternalError", 'Get "https://10.0.0.1:10250/containerLogs/x": connection refused')

    def story(cluster: Cluster, job: Object) -> None:
        first = cluster.pod(job)
        first.run()
        first.log(*lines(1))
        wait_until(lambda: any("follow=true" in path for _, path in site.api.requests))
        site.api.faults.add("GET", f"{first.name}/log", gone, times=None)
        first.evict()
        second = cluster.pod(job)
        second.run("gpu-node-2")
        second.log("going on", *lines(2))
        wait_until(lambda: site.api.faults.hits > TRIES)
        second.log(*lines(3))
        second.exit(0)
        cluster.complete(job)

    site.play(story)
    run = site.run_file()
    assert site.packtrain("submit", run, "--detach").code == 0
    ended = site.packtrain("logs", run, "--follow")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-3:] == ["going on", *lines(2, 3)]
    assert "is out of reach, with its node" in ended.err


def test_an_api_server_that_is_away_for_a_while_does_not_end_the_following(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def story(cluster: Cluster, job: Object) -> None:
        pod = cluster.pod(job)
        pod.run()
        pod.log(*lines(1))
        wait_until(lambda: any("follow=true" in path for _, path in site.api.requests))
        site.api.faults.add("GET", ".*", Fault(503, cut_after=0), times=None)
        wait_until(lambda: site.api.faults.hits > 3 * TRIES)
        site.api.faults.clear()
        pod.log(*lines(2))
        pod.exit(0)
        cluster.complete(job)

    site.play(story)
    run = site.run_file()
    assert site.packtrain("submit", run, "--detach").code == 0
    impatient = replace(api.PATIENCE, attempts=1)
    monkeypatch.setattr("packtrain.kube.access.connect.__wrapped__.__defaults__", (None, impatient))
    ended = site.packtrain("logs", run, "--follow")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == lines(1, 2)
    assert ended.err.count("it is asked again") == 1


def test_every_line_of_several_nodes_has_its_node(site: Site) -> None:
    def story(cluster: Cluster, jobset: Object) -> None:
        for index in range(2):
            pod = cluster.pod(jobset, index)
            pod.run(f"gpu-{index}")
            pod.log(f"from {index}")
            pod.exit(0)
        cluster.complete(jobset)

    site.play(story)
    run = site.run_file(cluster__nodes=2)
    assert site.packtrain("submit", run, "--detach").code == 0
    assert sorted(site.packtrain("logs", run, "-f").out.splitlines()) == [
        "[node 0] from 0",
        "[node 1] from 1",
    ]
    assert site.packtrain("logs", run).out.splitlines() == ["[node 0] from 0", "[node 1] from 1"]


def test_a_container_that_the_kubelet_started_again_has_a_log_before(site: Site) -> None:
    def story(cluster: Cluster, job: Object) -> None:
        pod = start(cluster, job)
        pod.restart(139)
        pod.run()
        pod.log("again")
        told.set()

    told = threading.Event()
    site.play(story)
    run = site.run_file()
    assert site.packtrain("submit", run, "--detach").code == 0
    assert told.wait(60)
    assert "step 2/4" in site.packtrain("logs", run, "--previous").out
    assert site.packtrain("logs", run).out == "again\n"


def keep(site: Site, attempt: str, rank: int, text: str) -> None:
    site.bucket.put(f"packtrain/train/{site.run_id()}/logs/{attempt}/rank-{rank}.log", text.encode())


def test_when_pods_are_gone_the_bucket_tells(site: Site) -> None:
    site.play(lambda cluster, job: None)
    run = site.run_file()
    assert site.packtrain("submit", run, "--detach").code == 0
    assert site.packtrain("logs", run).code == 78, "nothing was printed anywhere"
    keep(site, "20261124T000000Z-node-0", 0, "first\n")
    keep(site, "20261124T010000Z-node-0", 0, "second\nend\n")
    keep(site, "20261124T010000Z-node-0", 1, "of rank 1\n")
    site.api.delete("Job", "train")
    assert site.packtrain("logs", run).out == "second\nend\n"
    assert site.packtrain("logs", run, "--follow").out == "second\nend\n"
    assert site.packtrain("logs", run, "--previous").out == "first\n"
    every = site.packtrain("logs", run, "--every-rank").out.splitlines()
    assert every == ["[node 0 rank 0] second", "[node 0 rank 0] end", "[node 0 rank 1] of rank 1"]
    site.api.faults.add("*", ".*", Fault(401), times=None)
    ended = site.packtrain("logs", run)
    assert ended.out == "second\nend\n"
    assert "what the bucket has is shown" in ended.err


def test_a_cluster_that_is_away_and_an_empty_bucket(site: Site) -> None:
    site.api.faults.add("*", ".*", Fault(401), times=None)
    ended = site.packtrain("logs", site.run_file())
    assert ended.code == 77
    assert "does not accept the login" in ended.err
    assert "is shown" not in ended.err, "nothing is"


def test_follow_and_previous_do_not_go_together(site: Site) -> None:
    assert site.packtrain("logs", site.run_file(), "--follow", "--previous").code == 2
