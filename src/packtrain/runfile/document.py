"""A run file as YAML: plain data, and where in the file each key stands.

Scalars follow YAML 1.2's core schema, not PyYAML's 1.1: ``2e-4`` is a number, ``yes`` and ``on``
are text, ``010`` is ten, and there are no dates. https://yaml.org/spec/1.2.2/#103-core-schema
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from packtrain.errors import ConfigError, UsageError
from packtrain.runfile.keys import FIELDS, MAPS, SECTIONS, nearest_key, nearest_name

#: Where a value stands in the data: keys of mappings and indices of lists.
KeyPath = tuple[str | int, ...]

RUN_FILE = "a run file"
BEGIN = "packtrain init writes a run file to begin with"

_MOST_VALUES = 100_000
_MOST_DIGITS = 1000  # Python refuses to read more than 4,300
_TAG = "tag:yaml.org,2002:"
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"[-+]?[0-9]+$|0x[0-9a-fA-F]+$|0o[0-7]+$")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
_NULL = re.compile(r"(?:~|null|Null|NULL|)$")
_MERGE = re.compile(r"<<$")
_BREAKS = re.compile("[\x85\u2028\u2029]")


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str | None, list[Any]] = {}  # noqa: RUF012  (PyYAML's own shape)


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or 1.2 would read as something else than text."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Line breaks of YAML 1.1, which a reader folds unless they are escaped.
        style = '"' if _BREAKS.search(data) else None
        return self.represent_scalar(_TAG + "str", data, style=style)


for _name, _pattern, _first in (
    ("bool", _BOOL, list("tTfF")),
    ("int", _INT, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("null", _NULL, ["~", "n", "N", ""]),
    ("merge", _MERGE, ["<"]),
):
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, _first)
_Dumper.add_representer(str, _Dumper.represent_str)
_Dumper.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+.0123456789"))


def dump_yaml(data: Mapping[str, Any]) -> str:
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


@dataclass
class Document:
    path: Path
    text: str
    data: dict[str, Any]
    lines: dict[KeyPath, int]
    """Line of each key and list item, from 1; none of what was never a file."""
    overrides: dict[str, str] = field(default_factory=dict)
    """Dotted key -> the override (``train.epochs=2``) that set it."""

    @classmethod
    def read(cls, path: Path, kind: str = RUN_FILE) -> Document:
        """``kind``: what it is to be, for the sentences about one that it cannot be.

        Errors: :class:`ConfigError`.
        """
        own = kind == RUN_FILE
        text = _read_text(path, kind)
        try:
            node = yaml.compose(text, _Loader)
            lines: dict[KeyPath, int] = {}
            data = None if node is None else _plain(node, (), lines, ())
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}:{_yaml_problem(error, text)}") from None
        except RecursionError:
            raise ConfigError(f"{path}:1: is nested too deeply") from None
        if node is None:
            raise ConfigError(f"{path}:1: is empty", hint=BEGIN if own else None)
        if not isinstance(data, dict):
            found = "a list" if isinstance(data, list) else "a single value"
            example = " such as `name: my-run`" if own else ""
            raise ConfigError(f"{path}:1: is {found}; {kind} is keys and values{example}")
        return cls(path, text, data, lines)

    def override(self, override: str) -> None:
        """Apply one ``KEY=VALUE``; the value is read as YAML."""
        key = override_key(override)
        if key in SECTIONS:
            keys = ", ".join(name for name in FIELDS if name.startswith(f"{key}."))
            raise ConfigError(f"-s {override}: {key} is a section; set one of its keys: {keys}")
        if key not in FIELDS and key.rpartition(".")[0] not in MAPS:
            raise ConfigError(f"-s {override}: {key}: unknown key{did_you_mean(nearest_key(key))}")
        parsed = override_value(override)
        *sections, last = key.split(".")
        target = self.data
        for section in sections:
            if target.get(section) is None:
                target[section] = {}
            if not isinstance(target[section], dict):
                return  # the section itself is wrong, and the check says so
            target = target[section]
        target[last] = parsed
        self.overrides[key] = override

    def place(self, path: KeyPath) -> str:
        """``run.yaml:12: train.epochs`` or ``-s train.epochs=x``, for the start of a sentence."""
        for length in range(len(path), 0, -1):
            if override := self.overrides.get(dotted_key(path[:length])):
                return f"-s {override}"
        return f"{self.path}:{self.line(path)}: {dotted_key(path)}" if self.lines else dotted_key(path)

    def line(self, path: KeyPath) -> int:
        """From 1; of the section for a key that is absent, 1 where that is absent too."""
        return next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), 1)


def override_key(override: str) -> str:
    """The key of a ``KEY=VALUE``. Errors: :class:`UsageError`."""
    key, equals, _ = override.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"-s {override}: is not KEY=VALUE, such as train.learning_rate=1e-4")
    return key.strip()


def override_value(override: str) -> Any:
    """The value of a ``KEY=VALUE``, read as YAML. Errors: :class:`ConfigError`."""
    key, _, value = override.partition("=")
    try:
        node = yaml.compose(value, _Loader)
        return None if node is None else _plain(node, (), {}, ())
    except yaml.YAMLError as error:
        problem = _yaml_problem(error, value).split(": ", 1)[1]
        raise ConfigError(f"-s {override}: the value is not YAML: {problem}") from None
    except RecursionError:
        raise ConfigError(f"-s {key.strip()}: the value is nested too deeply") from None


def dotted_key(path: KeyPath) -> str:
    """``evaluate.prompts[2].expect`` for its key path."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).removeprefix(".")


def did_you_mean(name: str | None) -> str:
    return f"; did you mean {name}?" if name else ""


def _read_text(path: Path, kind: str) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        folder = path.parent
        names = [file.name for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
        near = nearest_name(path.name, [name for name in names if name.endswith((".yaml", ".yml"))])
        raise ConfigError(
            f"{path}: is not there{did_you_mean(str(path.with_name(near)) if near else None)}",
            hint=BEGIN if kind == RUN_FILE and not near else None,
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder, not {kind}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 text (byte {error.start + 1} of the file)") from None


def _yaml_problem(error: yaml.YAMLError, text: str) -> str:
    """``12:3: what is wrong``, without PyYAML's excerpt over several lines."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"{line}: holds the character U+{error.character:04X}, which YAML does not allow"
    assert isinstance(error, yaml.MarkedYAMLError)
    mark = error.problem_mark or error.context_mark
    place = f"{mark.line + 1}:{mark.column + 1}" if mark else "1"
    problem = error.problem or "cannot be read"
    if "'\\t'" in problem:
        problem = "a tab stands here; YAML is indented with spaces"
    elif "expected a single document" in (error.context or ""):
        problem = "a second YAML document begins here; a run file is one"
    elif "mapping values are not allowed" in problem:
        problem = "a `:` stands where no key can be; check the indentation, or quote the text"
    elif error.context:
        problem = f"{problem} ({error.context})"
    return f"{place}: {problem}"


def _plain(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], inside: tuple[int, ...]) -> Any:
    """Plain data of a node; ``lines`` gets the line of each key. ``inside``: ids of the nodes around it."""
    if id(node) in inside:
        raise yaml.MarkedYAMLError(
            problem="an alias stands inside of what it names", problem_mark=node.start_mark
        )
    if len(lines) > _MOST_VALUES:  # aliases of aliases of aliases
        raise yaml.MarkedYAMLError(problem=f"more than {_MOST_VALUES} values", problem_mark=node.start_mark)
    inside = (*inside, id(node))
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
        return [_plain(item, (*path, index), lines, inside) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.MappingNode)
    own: dict[str, yaml.Node] = {}
    merged: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if key_node.tag == _TAG + "merge":
            merged = {**_merge(value_node, path, lines, inside), **merged}
            continue
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
            raise yaml.MarkedYAMLError(problem="a key is not text", problem_mark=key_node.start_mark)
        key = key_node.value
        line = key_node.start_mark.line + 1
        if key in own:
            first = lines[(*path, key)]
            problem = f"{dotted_key((*path, key))}: stands twice (first in line {first})"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
        own[key] = value_node
        lines[(*path, key)] = line
    return merged | {key: _plain(value, (*path, key), lines, inside) for key, value in own.items()}


def _merge(
    node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], inside: tuple[int, ...]
) -> dict[str, Any]:
    """What ``<<: *anchor`` brings; a list of anchors counts the first of them most."""
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    merged: dict[str, Any] = {}
    for each in nodes:
        if not isinstance(each, yaml.MappingNode):
            raise yaml.MarkedYAMLError(problem="<< merges keys and values only", problem_mark=each.start_mark)
        there: dict[KeyPath, int] = {}
        merged = _plain(each, path, there, inside) | merged
        for key, line in there.items():
            lines.setdefault(key, line)
    return merged


def _scalar(node: yaml.ScalarNode) -> Any:
    value = str(node.value)
    match node.tag.removeprefix(_TAG):
        case "str":
            return value
        case "null":
            return None
        case "bool":
            return value.lower() == "true"
        case "int" if _INT.match(value) and len(value) <= _MOST_DIGITS:
            return int(value, 0) if value.startswith(("0x", "0o")) else int(value)
        case "int" if _INT.match(value):
            raise yaml.MarkedYAMLError(problem="the number is too long", problem_mark=node.start_mark)
        case "float" if _FLOAT.match(value):
            return float(value)
    raise yaml.MarkedYAMLError(problem=f"the tag {node.tag} is not used here", problem_mark=node.start_mark)
