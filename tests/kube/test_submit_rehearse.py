"""``packtrain submit --rehearse``: the pods run here first, and only what goes well here is submitted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from standins.kube_story import Cluster
from submitted import Site, train_well
from tiny import make_tiny_base
from whole_run import facts

pytestmark = pytest.mark.slow


def run_file(site: Site, tmp_path: Path, rows: list[dict[str, object]]) -> Path:
    """A run whose base and data are in the bucket: the rehearsal takes them from there, as the pods would."""
    for path in make_tiny_base(tmp_path / "big", "llama3").iterdir():
        site.bucket.put(f"base/{path.name}", path.read_bytes())
    site.bucket.put("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    places = {"model__source": site.bucket.uri("base"), "data__train": site.bucket.uri("rows.jsonl")}
    return site.run_file(**places)


def test_rehearsed_then_submitted_and_followed(site: Site, tmp_path: Path) -> None:
    site.play(train_well(site))
    ended = site.packtrain("submit", run_file(site, tmp_path, facts(100)), "--rehearse")
    assert ended.code == 0, ended.err
    said = ended.err.splitlines()
    order = [
        "rehearsal: the preflight pod looks first",
        "rehearsal: undisturbed",
        "The Job train of the run ",
    ]
    places = [next(at for at, line in enumerate(said) if line.startswith(each)) for each in order]
    assert places == sorted(places), ended.err
    ends = [line for line in said if line.startswith("rehearsal: ") and " ended with " in line]
    assert [line.rpartition(" ended with ")[2] for line in ends] == ["0: Complete", "0: Complete"]
    assert f"run {site.run_id()}" in ended.out
    assert not [name for name in site.bucket.names() if "rehears" in name], "the user's bucket is only read"


def test_what_fails_here_is_not_submitted(site: Site, tmp_path: Path) -> None:
    def never(cluster: Cluster, job: object) -> None:
        raise AssertionError("submitted")

    site.play(never)
    rows = [*facts(5), {"instruction": "What?", "context": "", "response": ""}, *facts(5)]
    ended = site.packtrain("submit", run_file(site, tmp_path, rows), "--rehearse")
    assert ended.code == 65
    assert "the rehearsal failed" in ended.err
    assert site.api.requests == [], "the cluster is not even asked"
    assert site.api.names("Job") == site.api.names("ConfigMap") == []
