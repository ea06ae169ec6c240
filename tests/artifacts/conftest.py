"""A tiny base and an adapter on it, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import make_tiny_base
from trained import Trained, trained_on


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def trained(base: Path) -> Trained:
    return trained_on(base)
