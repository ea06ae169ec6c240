"""Writes what was carried over as a run file with comments, checked as any run file is."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from packtrain.config import RunConfig
from packtrain.errors import ConfigError
from packtrain.runfile.document import Document, KeyPath, dump_yaml
from packtrain.runfile.elsewhere.carried import Carried
from packtrain.runfile.sentences import sentences

_SECTIONS = ("model", "data", "adapter", "train", "checkpoint", "evaluate", "output")
_WIDTH = 100
_LONGEST_NAME = 40


def run_name(stem: str) -> str:
    """A run's name from a file's: a DNS label of at most 40 characters."""
    label = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")
    return label[:_LONGEST_NAME].rstrip("-") or "run"


def check(carried: Carried, document: Document) -> None:
    """ConfigError with one sentence a value that no run file can have, at its line in the other file."""
    lines: dict[KeyPath, int] = {}
    for ours, theirs in carried.origins.items():
        lines[tuple(ours.split("."))] = document.line(tuple(theirs.split(".")))
    data = nested(carried.values)
    try:
        RunConfig.model_validate(data)
    except ValidationError as error:
        there = Document(document.path, document.text, data, lines)
        raise ConfigError("\n".join(sentences(error, there))) from None


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (data.setdefault(section, {}) if section else data)[name] = value
    return data


def render(carried: Carried, kind: str, origin: str) -> str:
    """The run file's text. ``origin``: the name of the file that it was made from."""
    data = nested(carried.values)
    lines = [
        *_comment(f"Made from {origin}, a config of {kind}, by packtrain init --from. Look it over, then:")
    ]
    lines += ["#", "#   packtrain data FILE --preview 3      shows the rows as the model sees them"]
    lines += [
        "#   packtrain plan FILE                  memory, time and cost",
        "#   packtrain train FILE",
        "#",
    ]
    lines += _left(carried)
    lines += ["", dump_yaml({"name": data["name"]}).rstrip()]
    for section in _SECTIONS:
        if section not in data:
            continue
        lines += ["", f"{section}:"]
        for key, value in data[section].items():
            said = carried.comments.get(f"{section}.{key}", "")
            said = "" if said == key else said
            block = [f"  {line}" for line in dump_yaml({key: value}).rstrip().splitlines()]
            if said and len(block) == 1 and len(block[0]) + len(said) + 4 <= _WIDTH:
                block[0] = f"{block[0]}  # {_one_line(said)}"
            elif said:
                block = [*_comment(said, "  "), *block]
            lines += block
    return "\n".join(lines) + "\n"


def _left(carried: Carried) -> list[str]:
    if not carried.left:
        return ["# Everything in it was carried over."]
    lines = ["# What could not be carried over, and why:"]
    together: dict[str, list[str]] = {}
    for what, why in dict.fromkeys(carried.left):
        together.setdefault(why, []).append(what)
    for why, what_all in together.items():
        lines += _comment(f"- {'; '.join(what_all)}", hanging="  ")
        lines += _comment(f"  → {why}", hanging="    ")
    return lines


def _comment(text: str, indent: str = "", hanging: str = "") -> list[str]:
    start = f"{indent}# "
    further = text[: len(text) - len(text.lstrip())]
    return textwrap.wrap(
        _one_line(text),
        _WIDTH,
        initial_indent=start + further,
        subsequent_indent=start + hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _one_line(text: str) -> str:
    """Text of another file may hold anything; in a comment it must not end the line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
