"""A Python in which nothing heavy is loaded yet, and what it tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from whole_run import ROOT

#: As a program of packtrain's own begins.
BEGIN = """
import json, sys
from packtrain.own import own_process
from packtrain.run import heavy
own_process()
"""
IMPORT = "with heavy.heavy_imports():\n    import packtrain.run.training\n"


def told_by(code: str, environment: Mapping[str, str] | None = None) -> Any:
    """What it prints, as JSON."""
    return json.loads(printed_by(code, environment))


def printed_by(code: str, environment: Mapping[str, str] | None = None) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
