"""The user's run file, small enough for a rehearsal, and what it trains on, in the stand-in bucket.

All that the cluster's part of a run depends on stays as it is; the base, the rows, the length and the
places are others.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

from packtrain.config import DataConfig, RunConfig, source_names
from packtrain.config.columns import formats_with
from packtrain.data.columns import Columns
from packtrain.data.rows import BadRow
from packtrain.data.sources import open_source
from packtrain.errors import AccessError, DataError, StorageError, UnavailableError
from packtrain.kube.rehearsal.base import TinyBase, make_tiny_base
from packtrain.kube.rehearsal.bucket import NAME

T = TypeVar("T")
ROWS, VALIDATION_ROWS, LENGTH = 64, 8, 256
STEPS, SAVE_EVERY = 40, 8
#: Tokens in a step: enough that a step takes long enough to be interrupted.
BATCH = 4 * LENGTH
#: The hub and the user's bucket have so many seconds to answer.
PATIENCE = 30.0
CONNECT = 5.0
#: A rehearsal costs nothing: what it takes is not to reach a small budget.
RICH = "1000000 USD"
_AWAY = (AccessError, UnavailableError, StorageError)


@dataclass(frozen=True)
class Small:
    config: RunConfig
    objects: dict[str, bytes]
    """What the bucket holds before the run, by name."""
    changes: dict[str, str]
    """Keys of the run file that differ, and what stands for them, in words."""


def make_small(config: RunConfig, folder: Path) -> Small:
    """Errors: :class:`DataError` and :class:`ConfigError` for what would end a pod in the cluster, too."""
    own_validation = not isinstance(config.data.validation, float)
    sources = [config.model.source, config.data.train, config.data.validation]
    with hub_if_it_answers() if _of_the_hub(sources) else nullcontext():
        base = make_tiny_base(folder / "base", config.model)
        objects = {f"base/{path.name}": path.read_bytes() for path in sorted((folder / "base").iterdir())}
        about_train = []
        for name, data in _parts(config.data):
            objects[name], about = _rows(data, data.train, ROWS)
            about_train.append(about)
        if own_validation:
            objects["validation.jsonl"], _ = _rows(config.data, config.data.validation, VALIDATION_ROWS)
    changes = {
        "model.source": base.note,
        "data.train": "; ".join(about_train),
        "data.validation": "a few rows of it" if own_validation else "a tenth of them",
        "data.max_length, train.batch_tokens, train.max_steps": f"{LENGTH} tokens, {STEPS} steps",
        "checkpoint.every": f"{SAVE_EVERY} steps",
        "evaluate": "one prompt, no gates",
        "output": f"gs://{NAME}, in this machine's memory",
    }
    return Small(_small_config(config, base, own_validation), objects, changes)


def _small_config(config: RunConfig, base: TinyBase, own_validation: bool) -> RunConfig:
    place = f"gs://{NAME}"
    model: dict[str, Any] = {"source": f"{place}/base", "revision": None, "dtype": "float32"}
    train = [
        item.model_copy(update={"source": f"{place}/{name}", "revision": None, "limit": None})
        for item, (name, _) in zip(config.data.mixture, _parts(config.data), strict=False)
    ]
    data: dict[str, Any] = {
        "train": train or f"{place}/train.jsonl",
        "validation": f"{place}/validation.jsonl" if own_validation else 0.1,
        "revision": None,
        # The first rows need not have every column that is named; a limit says that they are not all.
        "limit": ROWS if config.data.columns else None,
        "max_length": min(LENGTH, config.data.max_length),
        "too_long": "truncate",
    }
    adapter: dict[str, Any] = {}
    if not base.own_tokenizer:
        model["chat_template"] = None
        data["reasoning"] = "drop" if config.data.reasoning == "drop" else "content"
        adapter = {"targets": "all-linear"}
    sections: dict[str, dict[str, Any]] = {
        "model": model,
        "data": data,
        "adapter": adapter if config.adapter.kind != "none" else {},
        "train": {
            "epochs": 1.0 if config.data.streaming else 10_000.0,  # streamed data begins again by itself
            "max_steps": STEPS,
            "batch_tokens": BATCH,
            "micro_batch": 1,
            "threads": 1,
        },
        "checkpoint": {"every": SAVE_EVERY},
        "evaluate": {"every": 0.5, "prompts": config.evaluate.prompts[:1], "max_new_tokens": 8},
        "output": {
            "uri": f"{place}/final_model",
            "run_uri": f"{place}/run" if config.output.run_uri is not None else None,
        },
        "cluster": {"max_cost": RICH} if config.cluster.max_cost is not None else {},
    }
    changed = {name: getattr(config, name).model_copy(update=section) for name, section in sections.items()}
    gates = type(config.evaluate.fail_if)()
    changed["evaluate"] = changed["evaluate"].model_copy(update={"fail_if": gates})
    return config.model_copy(update=changed)


def _parts(data: DataConfig) -> list[tuple[str, DataConfig]]:
    """The object of each source of a mixture, and the settings that its rows are read by; else of all."""
    if not data.mixture:
        return [("train.jsonl", data)]
    return [
        (
            f"train-{number}.jsonl",
            data.model_copy(
                update={
                    "train": item.source,
                    "revision": item.revision,
                    "format": item.format or data.format,
                }
            ),
        )
        for number, item in enumerate(data.mixture)
    ]


def _rows(data: DataConfig, source: Any, count: int) -> tuple[bytes, str]:
    """The first rows of ``source`` as jsonl, and what they are; made-up ones where it is not reached."""
    try:
        rows = _in_time(lambda: _first_rows(data, source, count))
        return _jsonl(rows), f"the first {len(rows)} rows of {_named(source)}"
    except _AWAY as error:
        why = str(error).splitlines()[0]
        columns = Columns.of(data)
        layout = formats_with(data.columns)[0] if data.columns and data.format == "auto" else data.format
        rows = [columns.foreign(row) for row in _made_up(layout, count)]
        return _jsonl(rows), f"{count} made-up rows ({why})"


def _named(source: str | Sequence[str]) -> str:
    return source if isinstance(source, str) else ", ".join(source)


def _first_rows(data: DataConfig, source: Any, count: int) -> list[dict[str, Any]]:
    found = open_source(source, revision=data.revision, in_place=data.streaming)
    rows: list[dict[str, Any]] = []
    for item in found:
        if isinstance(item, BadRow):
            if data.on_bad_row == "fail":
                raise DataError(str(item))
            continue
        rows.append(item.fields)
        if len(rows) == count:
            break
    return rows


def _jsonl(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows).encode()


def _made_up(format: str, count: int) -> list[dict[str, Any]]:
    """Rows in the layout that the run file names."""
    pairs = [
        (f"What is {number} plus {number + 1}?", f"{number} plus {number + 1} is {2 * number + 1}.")
        for number in range(count)
    ]
    made: dict[str, Callable[[str, str], dict[str, Any]]] = {
        "alpaca": lambda asked, answer: {"instruction": asked, "input": "", "output": answer},
        "sharegpt": lambda asked, answer: {
            "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
        },
        "messages": lambda asked, answer: {
            "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        },
        "prompt-completion": lambda asked, answer: {"prompt": asked, "completion": answer},
        "text": lambda asked, answer: {"text": f"{asked} {answer}"},
    }
    dolly: Callable[[str, str], dict[str, Any]] = lambda asked, answer: {  # noqa: E731
        "instruction": asked,
        "context": "",
        "response": answer,
    }
    one = made.get(format, dolly)
    return [one(asked, answer) for asked, answer in pairs]


def _of_the_hub(sources: Sequence[Any]) -> bool:
    each = [name for source in sources for name in source_names(source)]
    return any(not name.startswith(("gs://", "pypi:")) for name in each)


@contextmanager
def hub_if_it_answers() -> Iterator[None]:
    """Without a way to the Hugging Face hub its cache alone is asked (a question takes half a minute)."""
    from huggingface_hub import constants

    place = urlsplit(constants.ENDPOINT)
    offline = constants.HF_HUB_OFFLINE
    if not getproxies():
        try:
            port = place.port or {"http": 80}.get(place.scheme, 443)
            socket.create_connection((place.hostname or "", port), CONNECT).close()
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def _in_time(work: Callable[[], T]) -> T:
    """``work()``, or :class:`UnavailableError` after :data:`PATIENCE` seconds."""
    done: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:  # noqa: BLE001  (raised below, in the thread that asked)
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if failed:
        raise failed[0]
    if not done:
        raise UnavailableError(f"no answer in {PATIENCE:.0f} s")
    return done[0]
