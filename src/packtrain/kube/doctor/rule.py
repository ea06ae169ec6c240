"""What a rule is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from packtrain.kube.doctor.documents import Document
from packtrain.kube.doctor.tree import Node, shown

Severity = Literal["error", "warning", "info"]
#: Gravest first.
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
#: Where in the document, and what is wrong there, in one sentence.
Problem = tuple[Node, str]
Target = TypeVar("Target")


@dataclass(frozen=True)
class Rule(Generic[Target]):
    """One thing that goes wrong. error: fails, loses work, or gives a right or a secret away. warning: costs
    money or time, or fails sometimes. info: worth knowing."""

    id: str
    severity: Severity
    title: str
    """What is wrong, in general."""
    source: str
    """Where it is written: a page or a report."""
    fix: str
    """What to do, in one sentence."""
    target: type[Target]
    """The view that it judges."""
    check: Callable[[Target], Iterator[Problem]]


@dataclass(frozen=True)
class Finding:
    rule: Rule[Any]
    document: Document
    where: Node
    sentence: str

    @property
    def line(self) -> int | None:
        return self.document.line_of(self.where.path)

    @property
    def path(self) -> str:
        """The place inside the document."""
        root = self.document.root.path
        return shown(self.where.path[len(root) :])

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.document.source,
            "line": self.line,
            "kind": self.document.kind or None,
            "name": self.document.name or None,
            "path": self.path,
            "rule": self.rule.id,
            "severity": self.rule.severity,
            "message": self.sentence,
            "fix": self.rule.fix,
            "source": self.rule.source,
        }


def rule(
    target: type[Target],
    id: str,
    severity: Severity,
    title: str,
    *,
    source: str,
    fix: str,
) -> Callable[[Callable[[Target], Iterator[Problem]]], Rule[Target]]:
    """Makes a rule of the function that checks it."""

    def made(check: Callable[[Target], Iterator[Problem]]) -> Rule[Target]:
        return Rule(id, severity, title, source, fix, target, check)

    return made
