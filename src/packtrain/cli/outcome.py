"""What a failure looks like: one sentence on stderr and the exit code that tells what to do next.

Only what nobody foresaw has a stack trace.
"""

from __future__ import annotations

import os
import sys
import traceback

import typer

from packtrain.errors import BugError, PacktrainError, StorageError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def fail(error: BaseException) -> int:
    """Tells of ``error`` on stderr, and the supervisor where there is one; returns the exit code."""
    from packtrain.run.outcome import write_outcome
    from packtrain.train.terminal import outlived_output

    with outlived_output():
        code = _tell(error)
    write_outcome(code, str(error) or type(error).__name__, getattr(error, "hint", None))
    return code


def _tell(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        typer.echo("interrupted", err=True)
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has gone: say nothing, and let the flush at exit find no pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return StorageError.exit_code
    from packtrain.run.outcome import of_the_machine

    known = error if isinstance(error, PacktrainError) else of_the_machine(error)
    if known is None:
        traceback.print_exception(error)
        typer.echo(
            f"error: {type(error).__name__}: {error}\n"
            "hint: this is a bug in packtrain; please report it with the lines above and the output of "
            "`packtrain version -v`",
            err=True,
        )
        return BugError.exit_code
    typer.echo("\n".join(f"error: {line}" for line in str(known).splitlines()), err=True)
    if known.hint:
        typer.echo(f"hint: {known.hint}", err=True)
    return known.exit_code
