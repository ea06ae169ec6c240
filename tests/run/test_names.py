"""The names of transformers: the same, however they are found."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from new_python import BEGIN, IMPORT, told_by

from packtrain.run.names import SCANNER, found_quickly, from_the_last

FILES = {
    "none": "import os\n\nvalue = 1\n",
    "one line": 'import os\n\n__all__ = ["A", "B"]\n',
    "lines": 'class A:\n    pass\n\n\n__all__ = [\n    "A",\n    "B",\n]\n',
    "first": '__all__ = ["A"]\nimport os\n',
    "twice": '__all__ = ["Old"]\nif True:\n    x = 1\n__all__ = ["New"]\n',
    "in words": '"""What is in __all__ is public."""\n\n__all__ = ["A"]\n',
    "in words alone": 'x = "__all__"\n',
    "indented": 'if True:\n    __all__ = ["A"]\n',
    "added to": '__all__ = ["A"]\n__all__ += ["B"]\n',
    "after a form feed": 'x = 1\x0c__all__ = ["A"]\n',
    "windows": 'x = 1\r\n__all__ = [\r\n    "A",\r\n]\r\n',
    "empty": "",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES.keys())
def test_one_file(content: str) -> None:
    read = importlib.import_module(SCANNER).fetch__all__
    assert from_the_last(read)(content) == read(content)


def test_all_that_transformers_offers() -> None:
    look = (
        "from transformers.utils import import_utils\n"
        "quick = import_utils.fetch__all__.__module__\n"
        "from transformers import AutoConfig\n"
        "places = sys.modules['transformers']._class_to_module\n"
        "print(json.dumps([quick, sorted(places.items())]))"
    )
    quick, ours = told_by(f"{BEGIN}{IMPORT}{look}")
    plain, theirs = told_by(f"import json, sys, transformers\n{look}")
    assert (quick, plain) == ("packtrain.run.names", SCANNER)
    assert len(ours) > 1000
    assert ours == theirs


def test_another_version_without_that_function_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "transformers" / "utils").mkdir(parents=True)
    for name in ("__init__", "utils/__init__", "utils/import_utils"):
        (tmp_path / "transformers" / f"{name}.py").write_text("found = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [each for each in sys.modules if each.partition(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    before = list(sys.meta_path)
    with found_quickly():
        module = importlib.import_module(SCANNER)
    assert module.found == 1
    assert not hasattr(module, "fetch__all__")
    assert sys.meta_path == before
    for name in ("transformers", "transformers.utils", SCANNER):
        monkeypatch.delitem(sys.modules, name)
