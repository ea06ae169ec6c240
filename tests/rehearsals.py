"""Run files whose base and data are in a bucket that answers: rehearsals take them from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from standins.bucket import BucketServer
from whole_run import facts


def in_bucket(server: BucketServer, base: Path, rows: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Sections of a run file whose base and data are in the server's bucket."""
    for path in base.iterdir():
        server.put(f"base/{path.name}", path.read_bytes())
    lines = "".join(json.dumps(row) + "\n" for row in rows or facts(200))
    server.put("rows.jsonl", lines.encode())
    return {
        "model": {"source": server.uri("base")},
        "data": {"train": server.uri("rows.jsonl")},
        "output": {"uri": server.uri("final_model")},
    }
