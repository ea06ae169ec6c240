"""Runs the ranks of a run on one node and ends with the true exit code.

PID 1 in the container, and what ``packtrain train --processes N`` calls. It imports no torch and stays
small: torchrun is a process of its own (:mod:`packtrain.run.launch`), and what the ranks' ends add up to
is in :mod:`packtrain.run.outcome`.

    python -m packtrain.run.supervisor [--processes N] -- train RUN.yaml [options of packtrain train]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NoReturn

from packtrain.errors import PacktrainError, StorageError, UnavailableError, UsageError
from packtrain.run.launch import Engine, Nodes
from packtrain.run.node import Node, Verdict
from packtrain.run.outcome import RankOutcome
from packtrain.run.processes import adopting_orphans
from packtrain.run.signals import Signals
from packtrain.rundir import RunDir, tell_end

WORKER = (sys.executable, "-m", "packtrain.cli.main")


def supervise(
    arguments: Sequence[str],
    *,
    processes: int,
    grace: float = 15.0,
    worker: Sequence[str] = WORKER,
    engine: Engine | None = None,
    outcomes_dir: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    on_end: Callable[[int, str], None] = lambda exit_code, cause: None,
    signals: Signals | None = None,
    amend: Callable[[RankOutcome], RankOutcome] = lambda outcome: outcome,
    on_output: Callable[[int, bytes], None] = lambda local_rank, data: None,
) -> int:
    """Run ``worker`` with ``arguments`` in ``processes`` ranks on this node; returns the exit code.

    ``grace``: seconds that ranks have to end after SIGTERM, SIGHUP, SIGQUIT or SIGINT; a second SIGINT
    kills. ``engine``: by default torchrun, and none for a run of a single rank. ``on_end`` gets the exit
    code and its cause, a sentence, before this lingers (``PACKTRAIN_LINGER``, 5 s) with a 69, so that
    whoever preempted a peer is heard first. ``amend`` may know better why the ranks were stopped;
    ``on_output`` is :class:`Node`'s. Call it in the main thread. Raises
    :class:`~packtrain.errors.UsageError` for an environment that describes no set of nodes.
    """
    nodes = Nodes.from_environment(environment)
    linger = _seconds(environment, "PACKTRAIN_LINGER", 5.0)
    if engine is None:
        engine = "direct" if processes * nodes.count == 1 else "torchrun"
    with ExitStack() as stack:
        if signals is None:
            signals = stack.enter_context(Signals())
        if outcomes_dir is None:
            folder = tempfile.TemporaryDirectory(prefix="packtrain-outcomes-", ignore_cleanup_errors=True)
            outcomes_dir = Path(stack.enter_context(folder))
        stack.enter_context(adopting_orphans())
        node = Node([*worker, *arguments], processes, nodes, engine, outcomes_dir, signals, grace, on_output)
        verdict = node.run(environment)
        amended = amend(verdict.outcome)
        if amended != verdict.outcome:
            verdict = Verdict(amended, shown=False)
        _show(verdict)
        on_end(verdict.outcome.exit_code, verdict.outcome.message)
        if verdict.outcome.exit_code == UnavailableError.exit_code:
            signals.wait_for_stop(linger)
        return verdict.outcome.exit_code


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(environment.get(name, default))
    except ValueError:
        raise UsageError(f"{name} is {environment[name]!r}, which is no number of seconds") from None


def _show(verdict: Verdict) -> None:
    outcome = verdict.outcome
    if verdict.shown:
        return
    whose = f"rank {outcome.rank}"
    lines = outcome.message.splitlines() or [""]
    if outcome.rank >= 0 and not lines[0].startswith(whose):
        lines[0] = f"{whose}: {lines[0]}"
    _say([f"error: {line}" for line in lines])
    if verdict.lines:
        _say(
            ["its last lines:" if outcome.rank >= 0 else "its log:", *(f"  {line}" for line in verdict.lines)]
        )
    if outcome.hint:
        _say([f"hint: {outcome.hint}"])


def _say(lines: Sequence[str]) -> None:
    with suppress(OSError):  # the terminal was closed
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        sys.stderr.flush()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint="python -m packtrain.run.supervisor [--processes N] -- train RUN.yaml")


def train_parser() -> argparse.ArgumentParser:
    """Reads what ``packtrain train`` reads, without its command line being imported."""
    parser = _Parser(prog="packtrain", add_help=False, allow_abbrev=False)
    parser.add_argument("verb", choices=["train"])
    parser.add_argument("run", type=Path)
    parser.add_argument("--run-dir")
    parser.add_argument("-s", "--set", action="append", default=[])
    parser.add_argument("--new", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser


def main(arguments: Sequence[str] | None = None, *, last: bool = False) -> int:
    """The exit code. ``last``: nothing comes after this but the end of the process."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, rest = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    # First of all: for PID 1 a signal without a handler does nothing.
    with Signals(last=last) as signals:
        try:
            parser = _Parser(prog="python -m packtrain.run.supervisor", description=__doc__)
            parser.add_argument("--processes", type=int, default=1, help="ranks on this node")
            processes = parser.parse_args(own).processes
            if processes < 1:
                raise UsageError(f"--processes is {processes}; a run has one or more")
            asked = train_parser().parse_args(rest)
            # Imported here: pydantic takes a quarter of a second.
            from packtrain.config import seconds
            from packtrain.report.trackers.tracker import check_installed
            from packtrain.run.pod_watch import watching
            from packtrain.runfile import load

            config = load(asked.run, asked.set).config
            check_installed(config.report.to)
            folder = Path(asked.run_dir) if asked.run_dir else Path("runs") / config.name

            with watching(
                config, folder, processes=processes, signals=signals, say=lambda line: _say([line])
            ) as watch:

                def on_end(exit_code: int, cause: str) -> None:
                    if exit_code:
                        with suppress(StorageError):  # a full disk: the exit code is left, and says the same
                            tell_end(RunDir(folder).events_file, exit_code, cause)
                    watch.end(folder)

                watch.begin()
                return supervise(
                    rest,
                    processes=processes,
                    grace=seconds(config.checkpoint.grace),
                    signals=signals,
                    on_end=on_end,
                    amend=watch.amend,
                    on_output=watch.heard,
                )
        except PacktrainError as error:
            _say([f"error: {line}" for line in str(error).splitlines()])
            _say([f"hint: {error.hint}"] if error.hint else [])
            return error.exit_code


if __name__ == "__main__":
    sys.exit(main(last=True))
