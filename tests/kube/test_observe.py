"""Following a job through bad weather: what is said, what is sat out, and when it is given up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from standins.kube_api import Fault, KubeApi
from standins.kube_story import Cluster as Story
from standins.kube_story import wait_until
from submitted import QUICK

from packtrain.errors import ConfigError, PreemptedError, UnavailableError
from packtrain.kube.api import JOB, Cluster
from packtrain.kube.names import labels
from packtrain.kube.observe import Pace, Watching
from packtrain.storage.retry import RetryPolicy

SHORT = RetryPolicy(attempts=2, deadline=5.0, first_delay=0.001, max_delay=0.002)


@pytest.fixture
def cluster(kube_api: KubeApi, tmp_path: Path) -> Iterator[Cluster]:
    path = kube_api.kubeconfig(tmp_path / "kubeconfig")
    with closing(Cluster.open(path, "the cluster gpu", "default", SHORT)) as opened:
        yield opened


def job(api: KubeApi) -> dict[str, object]:
    template = {
        "metadata": {"labels": labels("train", "x")},
        "spec": {"containers": [{"name": "trainer"}]},
    }
    return api.create("Job", "train", labels=labels("train", "x"), spec={"template": template})


def watching(cluster: Cluster, said: list[str], pace: Pace = QUICK, limit: float | None = None) -> Watching:
    return Watching(cluster, "train", JOB, "train", said.append, wait_limit=limit, pace=pace)


def test_an_api_server_that_is_away_is_waited_for(kube_api: KubeApi, cluster: Cluster) -> None:
    story = Story(kube_api)
    made = job(kube_api)
    story.pod(made).run()
    said: list[str] = []
    kube_api.faults.add("*", ".*", Fault(503), times=5)
    follower = watching(cluster, said)

    def finish(_: float) -> None:
        if not kube_api.get("Job", "train")["status"].get("conditions"):
            story.complete(made)

    follower.sleep = finish
    assert follower.to_end().phase == "succeeded"
    assert sum("the run goes on without it" in line for line in said) == 1


def test_an_api_server_that_stays_away_is_given_up(kube_api: KubeApi, cluster: Cluster) -> None:
    job(kube_api)
    kube_api.faults.add("*", ".*", Fault(503), times=None)
    with pytest.raises(UnavailableError, match="503"):
        watching(cluster, [], replace(QUICK, away=0.2)).to_end()


def test_without_the_right_to_watch_events_or_logs_it_is_still_followed(
    kube_api: KubeApi, cluster: Cluster
) -> None:
    story = Story(kube_api)
    made = job(kube_api)
    pod = story.pod(made)
    pod.run()
    for method, path in (("WATCH", "/pods"), ("GET", "/events"), ("GET", "/log")):
        kube_api.faults.add(method, path, Fault(403), times=None)
    said: list[str] = []
    follower = watching(cluster, said)
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            pod.exit(0)
            story.complete(made)

    follower.sleep = sleep
    assert follower.to_end().phase == "succeeded"
    assert QUICK.most in looks, "it asks less often than a watch would tell"
    assert said[0] == "starting: the container runs on gpu-node-1"


def test_what_lasts_is_told_again(kube_api: KubeApi, cluster: Cluster) -> None:
    Story(kube_api).pod(job(kube_api)).unschedulable("0/1 nodes are available")
    said: list[str] = []
    clock = iter(range(0, 1_000_000, 100))
    follower = watching(cluster, said, replace(QUICK, remind=300.0), limit=900.0)
    follower.clock = lambda: float(next(clock))
    with pytest.raises(UnavailableError, match="no nodes within the wait limit"):
        follower.to_end()
    assert said[0] == "queued: no node for it yet: 0/1 nodes are available"
    assert said[1].startswith(said[0] + " (for ")
    wait_until(lambda: kube_api.names("Job") == [])


def test_what_is_stuck_is_given_up_with_the_next_step(kube_api: KubeApi, cluster: Cluster) -> None:
    pod = Story(kube_api).pod(job(kube_api))
    pod.schedule()
    pod.waiting("ImagePullBackOff", "403 Forbidden")
    with pytest.raises(ConfigError, match="does not pass by itself") as caught:
        watching(cluster, []).to_end()
    assert "artifactregistry.reader" in str(caught.value.hint)
    assert "packtrain cancel" in str(caught.value.hint)
    assert kube_api.names("Job") == ["train"]


def test_a_job_that_is_not_there(kube_api: KubeApi, cluster: Cluster) -> None:
    with pytest.raises(PreemptedError, match="was deleted"):
        watching(cluster, []).to_end()
