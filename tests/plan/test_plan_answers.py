"""What a plan answers beside memory: suggestions, machines beside each other, numbers of GPUs. Tried with a
tracer in closed form, so that what is expected can be worked out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from plan import closed_form
from plan.models import LLAMA_3_8B, LLAMA_3_70B

from packtrain.config import RunConfig
from packtrain.errors import ConfigError, GateError, UsageError
from packtrain.model.weights import BaseFiles
from packtrain.plan.answer import Answer
from packtrain.plan.ask import check_fits
from packtrain.plan.compare import compare, counts, scale, stops_paying
from packtrain.plan.options import PlanKeys
from packtrain.plan.plan import Base, Planned, planned
from packtrain.plan.shown import lines
from packtrain.plan.suggest import suggestions
from packtrain.plan.target import target_of


@pytest.fixture(autouse=True)
def tracer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed_form.use(monkeypatch)
    monkeypatch.delenv("PACKTRAIN_MACHINES", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def quiet(_: str) -> None: ...


def plan(model: dict[str, Any] | None = None, keys: dict[str, Any] | None = None, **sections: Any) -> Planned:
    plain = {"name": "run", "model": {"source": "m"}, "data": {"train": "d"}}
    config = RunConfig.model_validate(plain | sections)
    base = Base(BaseFiles(Path("m"), "m", None, "m"), model or LLAMA_3_8B)
    told = PlanKeys.model_validate(keys or {})
    return planned(config, told, base, target_of(config.cluster, told), None, "no data", probing=False)


def test_what_fits_needs_no_suggestion() -> None:
    fits = plan()
    assert fits.fits
    assert suggestions(fits, quiet) == ()
    check_fits(Answer(fits))


def test_each_suggestion_fits_when_it_is_followed() -> None:
    large = plan(LLAMA_3_70B, {"gpu": "l4"})
    assert not large.fits
    found = suggestions(large, quiet)
    assert found
    for suggestion in found:
        sections: dict[str, Any] = {}
        for override in suggestion.overrides:
            key, _, value = override.partition("=")
            section, name = key.split(".")
            read: Any = {"true": True}.get(value, int(value) if value.isdigit() else value)
            sections.setdefault(section, {})[name] = read
        machine = {"machine": "g2-standard-8"} | sections.pop("cluster", {})
        if sections.get("adapter", {}).get("kind") == "qlora":
            continue
        again = plan(LLAMA_3_70B, cluster=machine, **sections)
        assert again.fits, suggestion
        assert again.profile.peak_bytes == suggestion.peak_bytes
    machines = [each for each in found if "cluster.machine" in each.overrides[0]]
    assert len(machines) == 3


def test_the_least_change_comes_first() -> None:
    # Four sequences of 8192 whose activations are kept are too much for one L4.
    train = {"micro_batch": 4, "activation_checkpointing": False}
    found = suggestions(
        plan(
            LLAMA_3_8B | {"num_hidden_layers": 16},
            {"gpu": "l4"},
            train=train,
            data={"train": "d", "max_length": 8192},
        ),
        quiet,
    )
    assert found[0].overrides == ("train.activation_checkpointing=true",)
    with pytest.raises(GateError, match="does not fit") as caught:
        check_fits(Answer(plan(LLAMA_3_70B, {"gpu": "l4"}), found))
    assert caught.value.exit_code == 76
    assert "-s train.activation_checkpointing=true" in str(caught.value.hint)


def test_a_smaller_micro_batch_is_the_largest_that_fits() -> None:
    # auto takes what fits by itself; one that is said is kept, and a smaller one suggested.
    small = LLAMA_3_8B | {"num_hidden_layers": 16}
    auto = plan(
        small, {"gpu": "l4"}, data={"train": "d", "max_length": 4096}, train={"batch_tokens": 1 << 20}
    )
    assert auto.fits
    said = plan(small, {"gpu": "l4"}, data={"train": "d", "max_length": 4096}, train={"micro_batch": 64})
    found = suggestions(said, quiet)
    assert not said.fits
    size = int(found[0].overrides[0].removeprefix("train.micro_batch="))
    for batch, fits in ((size, True), (size + 1, False)):
        assert (
            plan(small, {"gpu": "l4", "micro_batch": batch}, data={"train": "d", "max_length": 4096}).fits
            is fits
        )


def test_machines_are_ranked_by_what_fits_and_by_cost() -> None:
    options = compare(plan(LLAMA_3_70B), quiet)
    fitting = [each.plan.fits for each in options]
    assert fitting == sorted(fitting, reverse=True)
    assert not all(fitting)
    costs = [each.usd for each in options if each.plan.fits and each.usd is not None]
    assert costs == sorted(costs)
    assert [each.cheapest for each in options] == [True] + [False] * (len(options) - 1)
    (fastest,) = (each for each in options if each.fastest)
    assert fastest.seconds == min(each.seconds for each in options if each.plan.fits)
    unpriced = [each for each in options if each.usd is None]
    assert {each.to_json()["machine"] for each in unpriced} == {"a4-highgpu-8g"}
    flexible = [each.to_json() for each in options if each.capacity == "flex-start" and each.usd is not None]
    assert all(each["upper_bound"] for each in flexible)
    several = {each.to_json()["machine"] for each in options if each.plan.target.nodes > 1}
    assert several == {"a3-megagpu-8g", "a3-highgpu-8g", "a3-ultragpu-8g", "a4-highgpu-8g"}


def test_scaling_says_where_more_gpus_stop_paying() -> None:
    one = plan()
    rows = scale(one, counts("8..1024"), quiet)
    assert [row.plan.target.gpus for row in rows] == [8, 16, 32, 64, 128, 256, 512, 1024]
    assert rows[0].efficiency == 1.0
    # 65,536 tokens are 32 sequences: beyond that GPUs are idle.
    assert stops_paying(rows) == 32
    assert rows[-1].efficiency < 0.05
    larger = scale(plan(train={"batch_tokens": 1 << 24}), [8, 64], quiet)
    assert stops_paying(larger) is None
    assert larger[1].efficiency > 0.8
    told = "\n".join(lines(Answer(one, scaled=rows)))
    assert "More than 32 GPUs do not pay" in told
    assert "a step has 32 sequences" in told
    assert "Each doubling pays." in "\n".join(lines(Answer(one, scaled=larger)))


def test_without_tcpxo_a_sharded_run_waits_for_the_network() -> None:
    keys = {"gpus": 16, "sharding": "fsdp"}
    with_it, without = (plan(LLAMA_3_70B, keys | {"network": net}) for net in ("auto", "tcp"))
    assert with_it.step is not None
    assert without.step is not None
    assert without.step.seconds.expected > 2 * with_it.step.seconds.expected


@pytest.mark.parametrize("text", ["8..4", "x", "8..", "0..8", "8,0", "1..99999999", ""])
def test_a_range_that_is_none_is_a_wrong_command_line(text: str) -> None:
    with pytest.raises(UsageError, match="--scale"):
        counts(text)


def test_ranges_and_lists_of_gpus() -> None:
    assert counts("8..100") == [8, 16, 32, 64]
    assert counts("64,8,8") == [8, 64]
    with pytest.raises(ConfigError, match="12 GPUs"):
        scale(plan(), [12], quiet)
    with pytest.raises(ConfigError, match="cpu is one machine"):
        scale(plan(keys={"gpu": "cpu"}), [8], quiet)


def test_the_table_has_bars_and_says_what_is_not_known() -> None:
    told = "\n".join(lines(Answer(plan(LLAMA_3_70B, {"gpu": "l4"}), max_batch=0, max_length=0)))
    assert "DOES NOT FIT" in told
    assert "█▶" in told
    assert "time       not known: time needs the tokenizer and the data: no data" in told
    assert "micro-batch: none fits" in told
    assert "Nothing that was tried makes it fit." in told
    table = "\n".join(lines(Answer(plan(), options=compare(plan(), quiet))))
    assert "cheapest" in table
    assert "of a million tokens" in table
