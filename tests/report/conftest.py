"""What the report's tests share."""

from __future__ import annotations

from report_kit import make_run

__all__ = ["make_run"]
