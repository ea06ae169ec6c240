"""What of another trainer's file has become what, and what could not: a run file in the making."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from packtrain.runfile.elsewhere.source import Source, shown

_UNKNOWN = "packtrain does not know this key"


@dataclass
class Carried:
    values: dict[str, Any] = field(default_factory=dict)
    """Dotted key of the run file -> its value."""
    comments: dict[str, str] = field(default_factory=dict)
    """Dotted key -> where the value comes from, or how it was computed."""
    origins: dict[str, str] = field(default_factory=dict)
    """Dotted key -> the key of the other file."""
    left: list[tuple[str, str]] = field(default_factory=list)
    """What could not be carried over: ``key: value``, and why."""

    def put(self, key: str, value: Any, comment: str = "", origin: str = "") -> None:
        """Set a key of the run file; None sets nothing."""
        if value is None:
            return
        self.values[key] = value
        if comment or origin:
            self.comments[key] = comment or origin
        if origin:
            self.origins[key] = origin

    def name_defaults(self, source: Source) -> None:
        """Say of values that the other file does not set that they are the other trainer's defaults."""
        for ours, theirs in self.origins.items():
            if self.comments[ours] == theirs and not source.has(theirs):
                self.comments[ours] = "the default there"

    def leave(self, what: str, why: str) -> None:
        self.left.append((what, why))

    def leave_key(self, source: Source, key: str, why: str) -> None:
        """List a key of the other file, where it has a value."""
        if (value := source.take(key)) is not None:
            self.leave(f"{key}: {shown(key, value)}", why)

    def leave_rest(self, source: Source, reasons: Mapping[str, str]) -> None:
        """List all that nobody took; ``reasons``: key, or the beginning of one (``wandb_*``) -> why."""
        for key, value in source.untaken():
            self.leave(f"{key}: {shown(key, value)}", _reason(key, reasons))


def _reason(key: str, reasons: Mapping[str, str]) -> str:
    exact = reasons.get(key)
    if exact:
        return exact
    return next(
        (why for name, why in reasons.items() if name.endswith("*") and key.startswith(name[:-1])), _UNKNOWN
    )
