"""The small run file of a rehearsal, its tiny base and its few rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from launches import config_of
from rehearsals import in_bucket
from standins.bucket import BucketServer
from tiny import KINDS, make_tiny_base
from whole_run import facts

from packtrain.config import ModelConfig, RunConfig
from packtrain.data.columns import Columns
from packtrain.data.formats import FORMATS, detect_format, to_conversation
from packtrain.data.rows import Row
from packtrain.errors import ConfigError, DataError
from packtrain.kube.checks import check_for_cluster
from packtrain.kube.rehearsal import base as tiny_bases
from packtrain.kube.rehearsal.small import ROWS, Small, make_small
from packtrain.model.folder import check_folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub, and nothing in its cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")


@pytest.fixture
def small_of(bucket_server: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))
    base = make_tiny_base(tmp_path / "big", "llama3")

    def make(rows: list[dict[str, Any]] | None = None, **sections: Any) -> Small:
        found = in_bucket(bucket_server, base, rows)
        for name, section in sections.items():
            found[name] = found.get(name, {}) | section
        return make_small(config_of(**found), tmp_path / "made")

    return make


def test_base_and_rows_are_the_runs_own_where_they_are_at_hand(small_of: Any) -> None:
    small = small_of()
    assert "a random llama of 2 layers, with the tokenizer of gs://" in small.changes["model.source"]
    assert small.changes["data.train"].startswith(f"the first {ROWS} rows of gs://")
    rows = [json.loads(line) for line in small.objects["train.jsonl"].splitlines()]
    assert rows == facts(ROWS)


def test_the_small_run_file_is_one_for_the_cluster(small_of: Any) -> None:
    small = small_of(cluster={"nodes": 2, "capacity": "flex-start", "max_cost": "1 USD"})
    check_for_cluster(small.config)
    assert RunConfig.model_validate(small.config.model_dump()) == small.config
    cluster = small.config.cluster
    assert (cluster.nodes, cluster.capacity, cluster.max_cost) == (2, "flex-start", "1000000 USD")


def test_what_the_cluster_sees_of_a_run_stays(small_of: Any) -> None:
    small = small_of(adapter={"rank": 3, "targets": ["q_proj"]}, checkpoint={"grace": "20s"})
    assert small.config.adapter.rank == 3
    assert small.config.adapter.targets == ["q_proj"]
    assert small.config.checkpoint.grace == "20s"
    assert small.config.name == "llama3-8b-dolly"


def test_gates_do_not_end_a_rehearsal(small_of: Any) -> None:
    gates = {"fail_if": {"loss_above": 0.1, "answers_below": 1.0}, "prompts": ["a", "b"]}
    small = small_of(evaluate=gates)
    assert small.config.evaluate.fail_if.loss_above is None
    assert small.config.evaluate.prompts == ["a"]


def test_a_validation_source_of_its_own(small_of: Any, bucket_server: BucketServer) -> None:
    small = small_of(
        data={"validation": bucket_server.uri("rows.jsonl"), "train": bucket_server.uri("rows.jsonl")}
    )
    assert small.config.data.validation == "gs://packtrain-rehearsal/validation.jsonl"
    assert len(small.objects["validation.jsonl"].splitlines()) == 8


def test_each_source_of_a_mixture_has_rows_of_its_own(small_of: Any, bucket_server: BucketServer) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    bucket_server.put("turns.jsonl", json.dumps({"messages": turns}).encode() + b"\n")
    train = [
        {"source": bucket_server.uri("rows.jsonl"), "weight": 2.0, "format": "dolly", "limit": 3},
        bucket_server.uri("turns.jsonl"),
    ]
    small = small_of(data={"train": train})
    check_for_cluster(small.config)
    first, second = small.config.data.mixture
    assert (first.source, first.weight) == ("gs://packtrain-rehearsal/train-0.jsonl", 2.0)
    assert (first.format, first.limit) == ("dolly", None)
    assert (second.source, second.weight) == ("gs://packtrain-rehearsal/train-1.jsonl", 1.0)
    assert [json.loads(line) for line in small.objects["train-0.jsonl"].splitlines()] == facts(ROWS)
    assert json.loads(small.objects["train-1.jsonl"]) == {"messages": turns}
    assert "rows.jsonl; the first 1 rows of" in small.changes["data.train"]


def test_a_mixture_whose_files_have_names_of_their_own(small_of: Any, bucket_server: BucketServer) -> None:
    row = {"q": "a", "a": "b", "weight": 2}
    for name in ("one", "two"):
        bucket_server.put(f"{name}.jsonl", json.dumps(row).encode() + b"\n")
    train = [
        {"source": bucket_server.uri("one.jsonl"), "weight": 0.5, "format": "alpaca"},
        {"source": bucket_server.uri("two.jsonl"), "format": "alpaca"},
    ]
    names = {"instruction": "q", "output": "a"}
    small = small_of(data={"train": train, "columns": names, "system": "Be brief."})
    check_for_cluster(small.config)
    data = small.config.data
    assert (data.columns, data.system, data.limit) == (names, "Be brief.", ROWS)
    assert [each.format for each in data.mixture] == ["alpaca", "alpaca"]
    assert json.loads(small.objects["train-1.jsonl"]) == row


def test_data_that_is_not_there_is_no_reason_to_make_some_up(
    small_of: Any, bucket_server: BucketServer
) -> None:
    with pytest.raises(ConfigError, match="nothing is there"):
        small_of(data={"train": bucket_server.uri("other.jsonl")})


def test_bad_rows(tmp_path: Path, bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))
    found = in_bucket(bucket_server, make_tiny_base(tmp_path / "big"))
    bucket_server.put("rows.jsonl", b'{"instruction": "a", "response": "b"}\n{"instruction": \n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2"):
        make_small(config_of(**found), tmp_path / "one")
    found["data"] |= {"on_bad_row": "skip"}
    small = make_small(config_of(**found), tmp_path / "two")
    assert len(small.objects["train.jsonl"].splitlines()) == 1


@pytest.mark.usefixtures("offline")
def test_without_a_hub_both_are_made_up_and_it_is_said(tmp_path: Path) -> None:
    config = config_of(adapter={"targets": ["wqkv"]}, model={"source": "a/b", "chat_template": "{{ x }}"})
    small = make_small(config, tmp_path)
    assert "whose tokens are bytes (the model a/b" in small.changes["model.source"]
    assert small.changes["data.train"].startswith("64 made-up rows (the data set databricks/")
    assert small.config.adapter.targets == "all-linear"
    assert small.config.model.chat_template is None


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["auto", *FORMATS])
def test_made_up_rows_are_of_the_format_that_the_run_file_names(tmp_path: Path, name: str) -> None:
    small = make_small(config_of(data={"format": name}), tmp_path)
    for line in small.objects["train.jsonl"].splitlines():
        fields = json.loads(line)
        to_conversation(Row("place", fields), detect_format(fields) if name == "auto" else name)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "data",
    [
        {"columns": {"prompt": "question", "completion": "answer", "system": "rules"}},
        {"columns": {"instruction": "q", "context": "passage", "response": "a"}, "format": "dolly"},
        {"columns": {"messages": "talk", "role": "who", "content": "says"}},
        {"columns": {"conversations": "talk", "role": "who"}, "format": "sharegpt"},
    ],
)
def test_made_up_rows_have_the_names_that_the_run_file_names(tmp_path: Path, data: dict[str, Any]) -> None:
    small = make_small(config_of(data=data), tmp_path)
    columns = Columns.of(small.config.data)
    for line in small.objects["train.jsonl"].splitlines():
        fields = json.loads(line)
        assert set(columns.names.values()) <= fields.keys()
        made = columns.conversation(Row("place", fields), data.get("format") or columns.detect(fields))
        assert [message["role"] for message in made.messages] == ["user", "assistant"]
    assert small.config.data.reasoning == "content"  # the template of the base that was made up reads no key


@pytest.mark.parametrize("kind", KINDS)
def test_families_keep_their_kind_and_become_small(tmp_path: Path, kind: str) -> None:
    shape = {"hidden_size": 128, "num_hidden_layers": 5, "head_dim": 32}
    big = make_tiny_base(tmp_path / "big", kind, shape=shape)
    made = tiny_bases.make_tiny_base(tmp_path / "made", ModelConfig(source=str(big)))
    assert made.own_tokenizer, made.note
    settings = json.loads((made.folder / "config.json").read_text())
    assert settings["model_type"] == KINDS[kind][0]
    assert (settings["hidden_size"], settings["num_hidden_layers"]) == (64, 2)
    check_folder(made.folder, "made", weights=True)
    assert (made.folder / "tokenizer.json").read_bytes() == (big / "tokenizer.json").read_bytes()


def test_the_same_base_twice(tmp_path: Path) -> None:
    config = ModelConfig(source="pypi:not-unpacked")
    contents = []
    for name in ("one", "two"):
        folder = tiny_bases.make_tiny_base(tmp_path / name, config).folder
        check_folder(folder, name, weights=True)
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]
