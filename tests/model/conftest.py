"""Tiny random bases, loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from packed import Load
from tiny import make_tiny_base
from transformers import AutoModelForCausalLM, PreTrainedModel


@pytest.fixture(scope="session")
def load_base(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """``load_base(kind)``: a new model of a tiny base; the folders are made once."""
    folders: dict[str, Path] = {}

    def load(kind: str = "llama", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        if kind not in folders:
            folders[kind] = make_tiny_base(tmp_path_factory.mktemp(kind), kind)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folders[kind], dtype=dtype)
        return model

    return load
