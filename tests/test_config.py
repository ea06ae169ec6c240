"""The run file's types: durations, what is part of a run's identity, and how a difference is told."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from packtrain.config import (
    IDENTITY,
    RunConfig,
    Section,
    config_hash,
    differences,
    identity,
    seconds,
    source_names,
)

BASE: dict[str, Any] = {"name": "a", "model": {"source": "a/b"}, "data": {"train": "c/d"}}


def config(**sections: dict[str, Any]) -> RunConfig:
    merged = BASE | {name: BASE.get(name, {}) | keys for name, keys in sections.items()}
    return RunConfig.model_validate(merged)


@pytest.mark.parametrize(
    ("text", "expected"), [("30s", 30), ("5m", 300), ("1.5h", 5400), ("2d", 172_800), (" 5 m ", 300)]
)
def test_seconds_in_a_duration(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "5 weeks", "5m30s", "٣m" + "x"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is a duration such as"):
        seconds(text)


def test_the_hash_does_not_depend_on_what_does_not_train() -> None:
    base = config_hash(config())
    assert re.fullmatch(r"[0-9a-f]{64}", base)
    same = config(
        train={"micro_batch": 3, "threads": 1, "activation_checkpointing": True},
        evaluate={"every": 5, "prompts": ["hello"]},
        checkpoint={"every": "1h"},
        output={"uri": "gs://bucket/x"},
        cluster={"nodes": 4},
    )
    assert config_hash(same) == base
    assert config_hash(RunConfig.model_validate(BASE | {"name": "b"})) == base


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "revision", "main"),
        ("data", "max_length", 512),
        ("data", "validation", 0.1),
        ("data", "packing", False),
        ("adapter", "rank", 8),
        ("adapter", "targets", ["q_proj"]),
        ("train", "seed", 1),
        ("train", "epochs", 2),
        ("train", "learning_rate", 1e-4),
    ],
)
def test_the_hash_depends_on_what_trains(section: str, key: str, value: Any) -> None:
    other = config(**{section: {key: value}})
    assert config_hash(other) != config_hash(config())
    lines = differences(identity(config()), identity(other))
    assert [line.split(":")[0] for line in lines] == [f"{section}.{key}"]


def test_a_mixture_is_what_its_items_say_and_plain_lists_are_none() -> None:
    plain = config(data={"train": ["o/a", "o/b"], "revision": "main"})
    assert plain.data.mixture == ()
    assert plain.data.revisions == ("main",)
    assert plain.data.pinned(["c"]).revision == "c"
    assert identity(plain)["data"]["train"] == ["o/a", "o/b"]
    mixed = config(data={"train": ["o/a", {"source": "/x/b.jsonl", "weight": 2}]})
    assert [item.source for item in mixed.data.mixture] == ["o/a", "/x/b.jsonl"]
    assert mixed.data.revisions == (None, None)
    assert mixed.data.pinned(["c", None]).revisions == ("c", None)
    assert source_names(mixed.data.train) == ["o/a", "/x/b.jsonl"]
    assert source_names(0.1) == []
    assert [item["source"] for item in identity(mixed)["data"]["train"]] == ["o/a", "b.jsonl"]
    # Said in other words, or moved, or read back from where it was kept: the same run.
    again = RunConfig.model_validate(mixed.model_dump(mode="json"))
    moved = config(
        data={"train": [{"source": "o/a", "weight": 1.0}, {"source": "/y/b.jsonl", "weight": 2.0}]}
    )
    assert config_hash(again) == config_hash(moved) == config_hash(mixed)
    changes: list[dict[str, Any]] = [
        {"weight": 3},
        {"weight": 2, "format": "dolly"},
        {"weight": 2, "limit": 9},
    ]
    for change in changes:
        other = config(data={"train": ["o/a", {"source": "/x/b.jsonl"} | change]})
        assert config_hash(other) != config_hash(mixed)


def test_one_and_one_point_zero_are_the_same_run() -> None:
    assert config_hash(config(train={"epochs": 1})) == config_hash(config(train={"epochs": 1.0}))


def test_every_key_of_the_identity_exists() -> None:
    for name, keys in IDENTITY.items():
        assert keys <= set(getattr(config(), name).model_dump())
        assert set(identity(config())[name]) == keys


def test_differences_are_told_with_both_values() -> None:
    old, new = identity(config()), identity(config(train={"epochs": 2}, adapter={"targets": ["v_proj"]}))
    assert differences(old, new) == [
        'adapter.targets: "all-linear" -> ["v_proj"]',
        "train.epochs: 1.0 -> 2.0",
    ]
    assert differences(old, old) == []
    assert differences({}, {"a": {"b": 1}}) == ['a: null -> {"b": 1}']


def test_a_config_cannot_be_changed_and_takes_no_unknown_key() -> None:
    with pytest.raises(ValidationError):
        config().train.epochs = 2.0
    with pytest.raises(ValidationError):
        config(train={"epoch": 1})
    with pytest.raises(ValidationError):
        config(train={"epochs": float("inf")})


@pytest.mark.parametrize("name", ["a", "a-b", "0", "a" * 40, "llama3-8b-dolly"])
def test_names_that_are_dns_labels(name: str) -> None:
    assert RunConfig.model_validate(BASE | {"name": name}).name == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a.b", "a" * 41, "a\n", "é"])
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(ValidationError):
        RunConfig.model_validate(BASE | {"name": name})


def test_a_share_and_a_number_of_steps_are_told_apart() -> None:
    assert config(train={"warmup": 0.5}).train.warmup == 0.5
    steps = config(train={"warmup": 1}).train.warmup
    assert (steps, type(steps)) == (1, int)
    every = config(evaluate={"every": 1}).evaluate.every
    assert (every, type(every)) == (1, int)
    share = config(evaluate={"every": 1.0}).evaluate.every
    assert (share, type(share)) == (1.0, float)


def test_all_sections_are_strict() -> None:
    for section in Section.__subclasses__():
        assert section.model_config["extra"] == "forbid"
        assert section.model_config["strict"]
        assert section.model_config["frozen"]


def test_full_fine_tuning_has_no_adapter_to_set() -> None:
    full = config(adapter={"kind": "none"})
    assert full.full and not config().full
    assert config_hash(full) != config_hash(config())
    # What is kept of a run names every key with its default.
    assert RunConfig.model_validate(full.model_dump()) == full


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rank", 8),
        ("alpha", 1.0),
        ("dropout", 0.1),
        ("targets", ["q_proj"]),
        ("modules_to_save", ["lm_head"]),
    ],
)
def test_a_key_of_an_adapter_that_is_not_there_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"adapter.{key}: there is no adapter with adapter.kind: none"):
        config(adapter={"kind": "none", key: value})


def test_a_base_in_4_bits_is_not_sharded() -> None:
    with pytest.raises(ValidationError, match=r"train.parallel: fsdp cannot shard a base in 4 bits"):
        config(adapter={"kind": "qlora"}, train={"parallel": "fsdp"})
