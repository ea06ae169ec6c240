"""What the report's tests share."""

from __future__ import annotations

from report_kit import make_run
from standins.bucket import bucket_server
from whole_run import base, job

__all__ = ["base", "bucket_server", "job", "make_run"]
