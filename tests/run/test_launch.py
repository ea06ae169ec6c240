"""The command lines that start ranks, held against torchrun's own parser, and the environment of a pod."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import supervised

from packtrain.errors import UsageError
from packtrain.run.launch import Nodes, launcher_arguments, read_ends, torchrun_arguments

COMMAND = ["python", "-m", "packtrain.cli.main", "train", "run.yaml", "-s", "train.epochs=2", "--new"]
POD = {
    "PACKTRAIN_NODES": "2",
    "JOB_COMPLETION_INDEX": "1",
    "PACKTRAIN_MASTER_ADDR": "run-workers-0-0.run",
}


def test_one_node_needs_no_environment() -> None:
    assert Nodes.from_environment({}) == Nodes(1, 0)
    assert Nodes.from_environment({"PACKTRAIN_NODES": "1", "JOB_COMPLETION_INDEX": "0"}) == Nodes(1, 0)


def test_several_nodes_as_a_jobset_has_them() -> None:
    assert Nodes.from_environment(POD) == Nodes(2, 1, "run-workers-0-0.run", 29500)
    more = POD | {"PACKTRAIN_NODE_RANK": "0", "PACKTRAIN_MASTER_PORT": "1234"}
    assert Nodes.from_environment(more) == Nodes(2, 0, "run-workers-0-0.run", 1234)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"PACKTRAIN_NODES": "two"}, "PACKTRAIN_NODES is 'two', which is no whole number"),
        ({"PACKTRAIN_NODES": "0"}, "PACKTRAIN_NODES is 0"),
        ({"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX has to say which of the 2 nodes"),
        ({"PACKTRAIN_NODE_RANK": "-1"}, "PACKTRAIN_NODE_RANK has to say"),
        ({"PACKTRAIN_MASTER_ADDR": ""}, "PACKTRAIN_MASTER_ADDR has to name"),
        ({"PACKTRAIN_MASTER_PORT": "http"}, "PACKTRAIN_MASTER_PORT is 'http'"),
    ],
)
def test_an_environment_that_makes_no_sense(change: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Nodes.from_environment(POD | change)


@pytest.mark.parametrize("nodes", [Nodes(), Nodes(2, 1, "first.run", 29500)])
def test_torchrun_reads_its_command_line_as_it_is_meant(nodes: Nodes) -> None:
    from torch.distributed.run import config_from_args, parse_args

    config, entrypoint, rest = config_from_args(parse_args(torchrun_arguments(COMMAND, 1, nodes)))
    assert [entrypoint, *rest] == COMMAND
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (nodes.count, nodes.count, 1)
    assert config.max_restarts == 0
    if nodes.count == 1:
        assert (config.rdzv_backend, config.rdzv_endpoint) == ("c10d", "127.0.0.1:0")
        assert config.local_addr == "127.0.0.1"
    else:
        assert (config.rdzv_backend, config.rdzv_endpoint) == ("static", "first.run:29500")
        assert config.rdzv_configs["rank"] == 1


def test_all_nodes_say_the_same_id_or_they_never_meet() -> None:
    ids = set()
    for rank in range(3):
        arguments = launcher_arguments(COMMAND, "torchrun", 2, Nodes(3, rank, "first.run"), parent=100 + rank)
        ids |= {argument for argument in arguments if argument.startswith("--rdzv-id")}
    assert len(ids) == 1


def test_the_launchers_command_line() -> None:
    direct = launcher_arguments(COMMAND, "direct", 2, Nodes(), parent=7)
    assert direct[:3] == [sys.executable, "-m", "packtrain.run.launch"]
    assert direct[-len(COMMAND) - 1 :] == ["direct", *COMMAND]
    torchrun = launcher_arguments(COMMAND, "torchrun", 2, Nodes(), parent=7)
    assert torchrun[3:6] == ["--parent=7", "--processes=2", "torchrun"]
    assert "--nproc-per-node=2" in torchrun


def test_no_ends_are_known_of_a_launcher_that_was_killed(tmp_path: Path) -> None:
    assert read_ends(tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="the death of a parent is told on Linux only")
def test_a_launcher_whose_parent_is_gone_starts_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"open({str(tmp_path / 'started')!r}, 'w')"]
    ended = subprocess.run(
        launcher_arguments(command, "direct", 1, Nodes(), parent=os.getpid() + 1),
        env=supervised.environment(tmp_path, PACKTRAIN_OUTCOMES=str(tmp_path)),
        check=False,
    )
    assert ended.returncode == 143
    assert list(tmp_path.iterdir()) == []
