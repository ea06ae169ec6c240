"""From the text of a file to the documents in it, each with the lines that its parts stand on.

Nothing here raises for a text: what cannot be read is a document too, with a sentence that says why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from packtrain.kube.doctor.tree import Node, Path

#: Go and Helm templates ({{ .Values.x }}), Jinja ({% if %}), Terraform (%{ if }); GitHub's ${{ }} is none.
_TEMPLATE = re.compile(r"(?<!\$)\{\{|\{%|%\{")
#: A hole that is filled before a manifest is one; Prometheus' {{ $labels.x }} and Argo's {{inputs.x}} stay.
_HOLE = re.compile(
    r"(?<!\$)\{\{-?\s*(?:\.|\$root|\$\.|\$?\w+\s*:=|(?:include|toYaml|template|if|else|range|with|end|default|quote"
    r"|printf|tpl|required)\b)|\{%|%\{"
)
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, eq=False)
class Document:
    source: str
    """Name of the file, as it is shown."""
    root: Node
    unreadable: str = ""
    """Why the text could not be read, or empty."""
    template: bool = False
    """The text is a template: nothing in it can be judged before it is rendered."""
    line: int | None = None
    """Where the document, or what is wrong in it, begins."""
    text: str = field(default="", repr=False)
    """Of a document that could not be taken apart."""
    _marks: Any = field(default=None, repr=False, compare=False)

    @property
    def kind(self) -> str:
        return self.root["kind"].text

    @property
    def is_object(self) -> bool:
        """A Kubernetes object, by its two names."""
        return bool(self.kind and self.root["apiVersion"].text)

    @property
    def name(self) -> str:
        metadata = self.root["metadata"]
        return metadata["name"].text or metadata["generateName"].text or self.root["name"].text

    @property
    def title(self) -> str:
        return "/".join(part for part in (self.kind, self.name) if part)

    def line_of(self, path: Path) -> int | None:
        """The line of the deepest part of ``path`` that is in the text, from 1."""
        node, line = self._marks, self.line
        for key in path:
            if isinstance(node, yaml.MappingNode):
                found = [pair for pair in node.value if pair[0].value == str(key)]
                if not found:
                    return line
                line, node = found[-1][0].start_mark.line + 1, found[-1][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                node = node.value[key]
                line = node.start_mark.line + 1
            else:
                return line
        return line


def parse(text: str, source: str) -> list[Document]:
    """All documents of a text: YAML with any number of them, or JSON; lists are taken apart."""
    hole = _TEMPLATE.search(text)
    try:
        found = list(_parse(text, source))
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        if (data := _as_json(text)) is not None:
            return from_data(data, source)
        if hole is None:
            return [_unreadable(error, text, source)]
        found = []
    # A rendered manifest may carry braces inside a script: a template has them in its structure.
    if hole and (not found or any(_is_template(document.root) for document in found)):
        line = text[: hole.start()].count("\n") + 1
        return [Document(source, Node(None), template=True, line=line, text=text)]
    return found


def _unreadable(error: Exception, text: str, source: str) -> Document:
    line = None
    why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        why = str(error.problem or error.context or "not YAML")
    return Document(source, Node(None), unreadable=" ".join(why.split())[:200], line=line, text=text)


def from_data(data: Any, source: str) -> list[Document]:
    """Documents of one that is already plain data, without lines."""
    return list(_apart(Document(source, Node(data))))


def _parse(text: str, source: str) -> Iterator[Document]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            marks = loader.get_node()
            data = loader.construct_document(marks)
            if data is not None:
                line = marks.start_mark.line + 1
                yield from _apart(Document(source, Node(data), line=line, _marks=marks))
    finally:
        loader.dispose()


def _apart(document: Document) -> Iterator[Document]:
    """The items of a ``List``, or of a JSON array that gcloud printed, as documents of their own."""
    root = document.root
    if isinstance(root.value, list):
        items: list[Node] = list(root)
    elif root["kind"].text.endswith("List") and isinstance(root["items"].value, list):
        items = list(root["items"])
    else:
        yield document
        return
    for item in items:
        line = document.line_of(item.path)
        yield Document(document.source, item, line=line, _marks=document._marks)


def _is_template(root: Node) -> bool:
    """Whether a key or a short value is one of a template's holes: a script with braces in it is not."""
    return any(
        _HOLE.search(text)
        for node in root.walk()
        for text in (node.text if "\n" not in node.text else "", *(key for key, _ in node.pairs()))
    )


def _as_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
