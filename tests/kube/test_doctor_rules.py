"""The doctor's rules: each finds what it is for, and leaves alone what is nearly that."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Any

import pytest
from doctor_cases import ALL as CASES
from doctor_cases.gcloud import cluster, flexible, pool
from doctor_cases.kit import Case, found, judged
from launches import cluster_id, every_cluster, launch_of

from packtrain.kube.doctor.documents import from_data
from packtrain.kube.doctor.lint import lint
from packtrain.kube.doctor.rule import SEVERITIES, Rule
from packtrain.kube.doctor.rules import ALL
from packtrain.kube.manifests import render
from packtrain.kube.preflight import render_preflight

NUMBERS = Counter(case.rule for case in CASES)
IDS = [f"{case.rule}-{index}" for index, case in enumerate(CASES)]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_rule_finds_what_it_is_for(case: Case) -> None:
    assert case.rule in found(case.bad)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_rule_leaves_a_near_miss_alone(case: Case) -> None:
    assert case.rule not in found(case.good)


def test_every_rule_has_a_case() -> None:
    assert {rule.id for rule in ALL} == set(NUMBERS)


@pytest.mark.parametrize("rule", ALL, ids=[rule.id for rule in ALL])
def test_a_rule_says_what_is_wrong_where_it_is_written_and_what_to_do(rule: Rule[Any]) -> None:
    assert re.fullmatch(r"PT\d{3}", rule.id)
    assert rule.severity in SEVERITIES
    assert rule.source.startswith("https://")
    assert rule.title and not rule.title.endswith(".")
    assert rule.fix


def test_ids_are_one_of_a_kind_and_in_order() -> None:
    ids = [rule.id for rule in ALL]
    assert all(first < second for first, second in itertools.pairwise(ids))


@pytest.mark.parametrize("cluster", every_cluster(), ids=cluster_id)
def test_nothing_is_found_in_our_own_manifests(cluster: dict[str, Any]) -> None:
    launch = launch_of(**cluster)
    manifests = [*render(launch), *render_preflight(launch)]
    report = lint([[document for each in manifests for document in from_data(each, "ours")]])
    assert [(finding.rule.id, finding.sentence) for finding in report.findings] == []
    assert report.pods == 2


@pytest.mark.parametrize("budget", ["20 USD", "5000 USD"])
@pytest.mark.parametrize("nodes", [1, 2])
def test_nothing_is_found_in_our_own_manifests_with_a_budget(budget: str, nodes: int) -> None:
    launch = launch_of(nodes=nodes, max_cost=budget, queue="team-a", capacity="flex-start")
    report = lint([[document for each in render(launch) for document in from_data(each, "ours")]])
    assert report.findings == ()


@pytest.mark.parametrize("data", [pool(), flexible(), cluster()], ids=["pool", "flex-start", "cluster"])
def test_nothing_is_found_in_a_pool_as_it_should_be(data: object) -> None:
    report = judged(data)
    assert report.findings == ()
    assert report.pools == 1
