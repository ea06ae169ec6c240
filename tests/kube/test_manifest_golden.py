"""Golden manifests, as files that people read: ``PACKTRAIN_UPDATE=1`` renews them; a diff shows a change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from goldens import GOLDEN, goldens

NAMES = sorted(goldens())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_rendered_is_the_golden_file(name: str) -> None:
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("PACKTRAIN_UPDATE"):
        path.write_text(goldens()[name], encoding="utf-8")
    assert path.read_text(encoding="utf-8") == goldens()[name], "renew it with PACKTRAIN_UPDATE=1"


def test_there_is_no_golden_file_of_nothing() -> None:
    assert sorted(path.stem for path in Path(GOLDEN).glob("*.yaml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_file_is_yaml_in_short_lines(name: str) -> None:
    text = goldens()[name]
    assert all(document["apiVersion"] for document in yaml.safe_load_all(text))
    long = [line for line in text.splitlines() if len(line) > 150]
    assert long == []
