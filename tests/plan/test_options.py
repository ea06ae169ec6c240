"""The plan's own keys: taken out of the overrides, and wrong ones named with what was meant."""

from __future__ import annotations

import pytest

from packtrain.errors import ConfigError, UsageError
from packtrain.plan.options import PlanKeys, split


def test_the_plans_keys_are_taken_out_and_the_rest_stays_in_order() -> None:
    keys, rest = split(
        ["train.epochs=2", "plan.gpus=8", "plan.loss=fused", "name=x", "plan.checkpointing=false"]
    )
    assert keys == PlanKeys(gpus=8, loss="fused", checkpointing=False)
    assert rest == ["train.epochs=2", "name=x"]
    assert split([]) == (PlanKeys(), [])


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("plan.gpu5=8", r"plan\.gpu5: unknown key; did you mean plan\.gpus?\?"),
        ("plan.micro_bacht=8", r"did you mean plan\.micro_batch\?"),
        ("plan.xyzzy=8", r"plan\.xyzzy: unknown key$"),
        ("plan=8", "plan: unknown key"),
        ("plan.gpus=0", r"-s plan\.gpus=0: must be at least 1"),
        ("plan.gpus=many", r"expects a whole number, got the text 'many'"),
        ("plan.loss=linaer", r"-s plan\.loss=linaer: expects plain, fused or linear"),
        ("plan.sharding=zero3", r"expects none, fsdp or hsdp"),
        ("plan.checkpointing=1", "expects true or false"),
        ("plan.preemptions=-1", "must be at least 0"),
    ],
)
def test_a_wrong_key_or_value_is_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        split([override])


def test_what_is_no_override_is_a_wrong_command_line() -> None:
    with pytest.raises(UsageError, match="KEY=VALUE"):
        split(["plan.gpus"])
