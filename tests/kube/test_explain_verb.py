"""``packtrain explain`` with a cluster: its pods beside the run's own words, and what cannot be seen."""

from __future__ import annotations

import json

import pytest
from standins.kube_store import Object
from standins.kube_story import Cluster, wait_until
from submitted import Site, start

from packtrain.errors import UnavailableError
from packtrain.kube.explain import explained


def at_work(cluster: Cluster, job: Object) -> None:
    start(cluster, job)


def submitted(site: Site) -> str:
    run = site.run_file()
    site.play(at_work)
    ended = site.packtrain("submit", run, "--detach")
    assert ended.code == 0, ended.err
    wait_until(lambda: "training" in site.packtrain("status", run).out)
    run_id = site.run_id()
    site.tell(
        run_id,
        ("start", 0, {"run_id": run_id, "steps": 4, "resumed_from": None}),
        ("step", 2, {"loss": 1.5, "tokens": 10, "tokens_per_second": 99.0}),
        ("checkpoint", 2, {"seconds": 0.1}),
    )
    return str(run)


def test_the_cluster_is_asked_too(site: Site) -> None:
    run = submitted(site)
    told = json.loads(site.packtrain("explain", run, "--json").out)
    assert "The run did 2 of 4 steps" in told["explained"]
    assert "In the cluster: training: step 2/4" in told["explained"]
    assert (told["outcome"], told["exit_code"], told["notes"]) == ("no last word", None, [])


def test_a_cluster_that_does_not_answer_is_noted(site: Site) -> None:
    run = submitted(site)

    def connected(_: object) -> object:
        raise UnavailableError("the cluster does not answer")

    told = explained(run, connected)  # type: ignore[arg-type]
    assert (
        "The run did 2 of 4 steps" in told.paragraph
        and "In the cluster: the cluster cannot" in told.paragraph
    )
    assert "the cluster does not answer" in str(told.notes[0])


@pytest.mark.parametrize("verb", ["explain", "report"])
def test_a_run_that_was_never_submitted(site: Site, verb: str) -> None:
    ended = site.packtrain(verb, site.run_file())
    assert ended.code == 78
    assert "holds no run" in ended.err
