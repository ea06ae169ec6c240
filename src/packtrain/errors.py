"""One tree of errors, each with the exit code that tells a scheduler whether to try again.

The codes follow sysexits.h where one fits. ``retry`` says what a supervisor or a Kubernetes
``podFailurePolicy`` does with the code: never, yes, or yes within a limit ("counted").
"""

from __future__ import annotations

import traceback
from typing import ClassVar, Literal

Retry = Literal["no", "yes", "counted"]


class PacktrainError(Exception):
    """A failure that has one clear sentence: what is wrong, where, and what to do.

    ``str(error)`` is that sentence; ``hint``, when given, is a second one with what to do.
    """

    exit_code: ClassVar[int] = 70
    retry: ClassVar[Retry] = "counted"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a notebook: a mistake of the user's has no stack trace there, either."""
        return [f"{type(self).__name__}: {self}", *([f"hint: {self.hint}"] if self.hint else [])]


class UsageError(PacktrainError):
    """The command line cannot be understood."""

    exit_code = 2
    retry = "no"


class DataError(PacktrainError, ValueError):
    """The training data is bad: a row, a file, a format."""

    exit_code = 65
    retry = "no"


class UnavailableError(PacktrainError):
    """A service or a peer is gone, after retries."""

    exit_code = 69
    retry = "yes"


class BugError(PacktrainError):
    """packtrain itself is wrong: something that no user's input can cause."""

    def _render_traceback_(self) -> list[str]:
        return "".join(traceback.format_exception(self)).splitlines()


class MemoryExceededError(PacktrainError):
    """Out of memory, on the host or on a GPU."""

    exit_code = 71
    retry = "no"


class ConflictError(PacktrainError):
    """Another run owns this name, folder or prefix."""

    exit_code = 73
    retry = "no"


class StorageError(PacktrainError):
    """Input or output failed: disk full, bucket lost, a checksum that does not match."""

    exit_code = 74
    retry = "counted"


class PreemptedError(PacktrainError):
    """The run was asked to stop and has saved its state; the same command goes on."""

    exit_code = 75
    retry = "yes"


class GateError(PacktrainError):
    """A gate failed: it does not fit, the budget is spent, the adapter is not as good as asked."""

    exit_code = 76
    retry = "no"


class AccessError(PacktrainError):
    """Access refused: token, gated model, bucket."""

    exit_code = 77
    retry = "no"


class ConfigError(PacktrainError, ValueError):
    """The run file is bad, a path in it is not there, or it differs from the run's settings."""

    exit_code = 78
    retry = "no"


class DivergedError(PacktrainError):
    """The loss or the gradients became NaN or infinite."""

    exit_code = 79
    retry = "no"


ALL: tuple[type[PacktrainError], ...] = (
    UsageError,
    DataError,
    UnavailableError,
    BugError,
    MemoryExceededError,
    ConflictError,
    StorageError,
    PreemptedError,
    GateError,
    AccessError,
    ConfigError,
    DivergedError,
)

BY_EXIT_CODE: dict[int, type[PacktrainError]] = {kind.exit_code: kind for kind in ALL}
