"""Calls ``supervise`` with stand-in ranks: ``supervise.py FOLDER ENGINE GRACE BEHAVIOUR…``.

Writes what ``on_end`` got to ``FOLDER/end``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import cast

from packtrain.run.launch import Engine
from packtrain.run.supervisor import supervise


def note_end(exit_code: int, cause: str) -> None:
    (Path(folder) / "end").write_text(f"{exit_code} {cause}")


folder, engine, grace, *behaviours = sys.argv[1:]
sys.exit(
    supervise(
        [folder, *behaviours],
        processes=len(behaviours) // int(os.environ.get("PACKTRAIN_NODES", "1")),
        grace=float(grace),
        worker=[sys.executable, str(Path(__file__).with_name("worker.py"))],
        engine=cast(Engine, engine),
        on_end=note_end,
    )
)
