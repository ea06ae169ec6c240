"""Whole runs on a tiny base, and a bucket."""

from standins.bucket import bucket_server
from whole_run import base, job

__all__ = ["base", "bucket_server", "job"]
