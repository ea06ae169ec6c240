"""``packtrain watch`` of a job on a cluster: as it waits, at work, and ended."""

from __future__ import annotations

import json

from standins.kube_store import Object
from standins.kube_story import Cluster, wait_until
from submitted import Site, start

from packtrain.kube.watching import standing
from packtrain.run.watch_source import Watched
from packtrain.runfile import load


def at_work(cluster: Cluster, job: Object) -> None:
    start(cluster, job)


def test_a_job_at_work(site: Site) -> None:
    run = site.run_file()
    assert standing(load(run, []).config).over is None, "not submitted yet"
    site.play(at_work)
    assert site.packtrain("submit", run, "--detach").code == 0
    wait_until(lambda: "training" in site.packtrain("status", run).out)
    watched = Watched(str(run), standing)
    run_id = site.run_id()
    site.tell(
        run_id, ("start", 0, {"run_id": run_id, "steps": 4, "resumed_from": None}), ("step", 2, {"loss": 1.5})
    )
    view = watched.look()
    watched.close()
    assert view.cluster is not None and view.cluster.startswith("training: step 2/4")
    assert (view.step, view.steps, view.over, view.note) == (2, 4, False, None)
    assert any("step 2/4" in line for line in view.log), "what rank 0 prints"


def test_a_job_that_failed_before_it_could_say_anything(site: Site) -> None:
    run = site.run_file()
    site.play(lambda cluster, job: cluster.fail(job, "BackoffLimitExceeded", "it failed"))
    site.packtrain("submit", run, "--detach")
    wait_until(lambda: "failed" in site.packtrain("status", run).out)
    ended = site.packtrain("watch", run, "--json")
    assert ended.code == 0, ended.err
    last = json.loads(ended.out.splitlines()[-1])
    assert last["ended"] and last["cluster"].startswith("failed")
