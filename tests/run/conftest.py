"""Whole runs on a tiny base."""

from whole_run import base, job

__all__ = ["base", "job"]
