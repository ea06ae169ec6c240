"""The collector while the heavy libraries are imported: asleep, and awake again."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest
from new_python import printed_by

from packtrain.run.heavy import SHAPES_KEPT, heavy_imports


def told_by(code: str) -> str:
    return printed_by(f"import gc, sys\nfrom packtrain.run.heavy import heavy_imports\n{code}").strip()


def test_nothing_is_collected_while_torch_is_imported() -> None:
    told = told_by(
        "seen = []\n"
        "gc.callbacks.append(lambda phase, info: seen.append(phase))\n"
        "with heavy_imports():\n"
        "    import torch\n"
        "    inside = len(seen)\n"
        "print(inside, gc.isenabled(), gc.get_freeze_count() > 100_000, gc.get_count()[0] < 10_000)"
    )
    assert told == "0 True True True"


def test_garbage_is_collected_again_afterwards() -> None:
    told = told_by(
        "import weakref\n"
        "class Knot: pass\n"
        "with heavy_imports(): pass\n"
        "knot = Knot(); knot.itself = knot; gone = weakref.ref(knot); del knot\n"
        "made = [[] for _ in range(100_000)]\n"
        "print(gone())"
    )
    assert told == "None"


def test_an_import_that_fails_leaves_the_collector_on() -> None:
    told = told_by(
        "try:\n"
        "    with heavy_imports():\n"
        "        import not_there\n"
        "except ImportError as error:\n"
        "    print(error.name, gc.isenabled())"
    )
    assert told == "not_there True"


@pytest.mark.parametrize("setting", ["on", "off"])
def test_a_process_that_is_under_way_is_left_as_it_is(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if setting == "on":
        monkeypatch.setitem(sys.modules, "transformers", sys)
    else:
        gc.disable()
    frozen = gc.get_freeze_count()
    try:
        with heavy_imports():
            assert gc.isenabled() == (setting == "on")
        assert gc.isenabled() == (setting == "on")
        assert gc.get_freeze_count() == frozen
    finally:
        gc.enable()


PRODUCTS = """
import os, re
with heavy_imports():
    import torch
def used():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
weight = torch.randn(64, 64)
def product(rows):
    torch.ops.mkldnn._linear_pointwise(torch.randn(rows, 64), weight, None, "none", [], "")
for rows in range(1, 20):
    product(rows)
before = used()
for rows in range(20, 620):
    product(rows)
print(used() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_products_of_many_lengths_keep_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SHAPES_KEPT:
        monkeypatch.delenv(name, raising=False)
    own = "from packtrain.own import own_process\nown_process()\n"
    ours, theirs = float(told_by(own + PRODUCTS)), float(told_by(PRODUCTS))
    assert ours < 0.6 * theirs


def test_who_wants_more_kept_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "512")
    told = told_by(
        "import os\nfrom packtrain.own import own_process\nown_process()\n"
        "with heavy_imports():\n    import torch\n"
        "print(os.environ['LRU_CACHE_CAPACITY'], os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'])"
    )
    assert told == "512 128"
