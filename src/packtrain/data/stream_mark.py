"""How far a run has come in data that is streamed: where it goes on, and what it was trained on so far."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from packtrain.data.report import LISTED, Findings, SplitReport
from packtrain.data.stream import Position, Window


@dataclass(frozen=True)
class Mark:
    """How far a run has come in its data, by whole windows: what a checkpoint keeps, as plain data."""

    window: int = 0
    """The one that is trained on, or comes next."""
    steps: int = 0
    """Of the windows before it."""
    start: Position = field(default_factory=Position)
    """Where it begins; all that follows counts what is before."""
    found: Findings = field(default_factory=Findings)
    rows: int = 0
    tokens: int = 0
    targets: int = 0
    bins: int = 0
    digest: str = ""
    """SHA-256 over one of each window before it."""
    content: str = ""
    """SHA-256 over its own rows' tokens and masks; empty before it was read."""
    most_bins: int = 0
    """Bins of the largest batch, the window's own included once it is read."""
    overlap: list[int] = field(default_factory=list)
    """Validation rows that stood in training, too, in the order in which that was seen."""
    overlap_places: list[str] = field(default_factory=list)
    """Where the first of these stood in training."""
    lengths: dict[str, int] = field(default_factory=dict)
    """Tokens of a row, of the first window."""

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Mark:
        return cls(**{**plain, "start": Position(**plain["start"]), "found": Findings(**plain["found"])})

    def within(self, window: Window) -> Mark:
        """The same, once its window is read."""
        return replace(
            self,
            content=window.rows.fingerprint,
            most_bins=max(self.most_bins, window.most_bins),
            lengths=self.lengths or SplitReport.of(window.rows, len(window.bins), 1).lengths,
        )

    def after(self, window: Window, steps: int) -> Mark:
        """When ``steps`` of the window are done, counted to its end where that are all."""
        rows = window.rows_until(steps)
        known = set(self.overlap)
        new = {row: place for row, place in window.overlap.items() if row not in known}
        whole = f"{self.digest}{window.rows.fingerprint}"
        return replace(
            self,
            window=self.window + 1,
            steps=self.steps + steps,
            start=window.end,
            found=self.found.plus(window.findings),
            rows=self.rows + len(rows),
            tokens=self.tokens + int(window.rows.lengths[rows].sum()),
            targets=self.targets + int(window.rows.targets[rows].sum()),
            bins=self.bins + window.bins_until(steps),
            overlap=[*self.overlap, *new],
            overlap_places=[*self.overlap_places, *new.values()][:LISTED],
            digest=hashlib.sha256(whole.encode()).hexdigest(),
            content="",
        )
