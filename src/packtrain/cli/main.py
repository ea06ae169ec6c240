"""The command line: finds the verb, imports that verb alone, and ends with the right exit code.

``packtrain --help`` imports nothing but typer; a verb's module, and what it needs, is imported
when that verb is called.
"""

from __future__ import annotations

import functools
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Annotated, Any

import typer

from packtrain import __version__
from packtrain.cli.outcome import INTERRUPTED, fail
from packtrain.ending import end_process
from packtrain.errors import PreemptedError
from packtrain.own import own_process

#: Verb -> its line in ``packtrain --help``. The function of that name (``-`` is ``_``) is in
#: ``packtrain.cli.<verb>``; of two words, the first is a group of verbs and the module.
VERBS = {
    "init": "Write a commented run file to begin with.",
    "plan": "Say what a run needs, how long it takes and what it costs.",
    "train": "Fine-tune as a run file says, and publish a verified adapter.",
    "verify-resume": "Prove that a run which is stopped and resumed ends the same.",
    "data": "Show the training data as the model sees it.",
    "report": "Write the page about a run, or compare several.",
    "watch": "Watch a run as it goes, on a terminal or as a page.",
    "explain": "Say why a run ended as it did, and what to do next.",
    "chat": "Talk with an adapter.",
    "eval": "Measure an adapter beside its base.",
    "export": "Turn an adapter into what other programs take.",
    "stage": "Copy the pinned base and data to the bucket.",
    "fetch": "Bring an adapter back from a bucket and verify it.",
    "cloud setup": "Bring a project from nothing to ready for a run.",
    "cloud check": "Look whether a run can go: rights, quota, zones, versions.",
    "cloud destroy": "Remove what setup made.",
    "image build": "Build the container image of a run and push it.",
    "rehearse": "Run a run's pods on this machine, before they cost anything.",
    "submit": "Run in a cluster, and follow the run to its end.",
    "status": "Show how runs stand, from the cluster and the bucket.",
    "logs": "Show what a run in a cluster prints.",
    "cancel": "Stop a run in a cluster, with its state saved.",
    "delete": "Take a run's objects out of a cluster.",
    "serve": "Serve a published adapter with vLLM in a cluster.",
    "doctor": "Find what is wrong in manifests, node pools and policies.",
    "schema": "Print the JSON Schema of a run file.",
    "version": "Print the version, and with -v what a bug report needs.",
}
#: The verbs of two words, by their first.
GROUPS: dict[str, str] = {
    "cloud": "Bring a Google Cloud project from nothing to ready, look at it, and undo it.",
    "image": "Build the container image.",
}


def entry() -> None:
    """The process: :func:`main` on its command line, and its end."""
    own_process()
    code, ending, here = INTERRUPTED, False, sys._getframe()

    def interrupt(_number: int, frame: FrameType | None) -> None:
        if ending or frame is here:  # nobody is left to catch it: there would be a trace
            os._exit(code)
        raise KeyboardInterrupt

    def dropped(ignored: sys.UnraisableHookArgs) -> None:
        if ignored.exc_type is KeyboardInterrupt:  # in a callback that nothing can be raised from
            os._exit(code)
        sys.__unraisablehook__(ignored)

    sys.unraisablehook = dropped
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # not ignored, as under nohup
        signal.signal(signal.SIGINT, interrupt)
    if sys.argv[1:2] == ["train"] and "RANK" not in os.environ:
        # Until the run itself listens, and once it does no more.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(PreemptedError.exit_code))
    try:  # noqa: SIM105  (contextlib's suppress has a frame of its own)
        code = main()
    except KeyboardInterrupt:
        pass  # one more, while the first was being told of
    ending = True
    end_process(code, tidy=code != INTERRUPTED)


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code (:mod:`packtrain.errors`)."""
    arguments = list(sys.argv[1:] if args is None else args)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: no terminal's encoding is an error
    try:
        typer.main.get_command(application(arguments))(args=arguments, prog_name="packtrain")
    except _Ended as end:
        return _flushed(int(end.code or 0))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
        return _flushed(INTERRUPTED if code == 1 else code)  # click's: a Ctrl-C that no verb has seen
    except Exception as error:  # noqa: BLE001  (a verb's module that cannot be imported; told below)
        return fail(error)
    return 0


def application(arguments: Sequence[str]) -> typer.Typer:
    """All verbs by name and help; only the module that ``arguments`` call is imported."""
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    app = _typer(help="A run file in, a verified adapter in your bucket out.")
    app.callback()(_root)
    groups: dict[str, typer.Typer] = {}
    for verb, line in VERBS.items():
        group, _, name = verb.rpartition(" ")
        if group and group not in groups:
            groups[group] = _typer(help=GROUPS[group])
            app.add_typer(groups[group], name=group)
        is_called = (group or name) == called
        function = _guarded(verb_function(verb)) if is_called else _not_called
        parent = groups[group] if group else app
        parent.command(name, short_help=line, help=None if is_called else line)(function)
    return app


def _typer(help: str) -> typer.Typer:
    return typer.Typer(
        help=help,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def verb_function(verb: str) -> Callable[..., Any]:
    words = verb.replace("-", "_").split(" ")
    module, name = words[0], words[-1]
    function = getattr(importlib.import_module(f"packtrain.cli.{module}"), name)
    assert callable(function)
    return function  # type: ignore[no-any-return]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"packtrain {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version.")
    ] = False,
) -> None:
    pass


def _not_called() -> None:
    raise AssertionError("only the verb that is called is imported")


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Whatever ends a verb becomes an exit code here, before typer makes its own of it."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except typer.Exit as end:
            raise _Ended(end.exit_code) from None
        except (typer.Abort, typer.BadParameter):
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (each kind has its exit code)
            raise _Ended(_told(error)) from None

    return guarded


class _Ended(SystemExit):
    """The end that a verb chose: its 1 is its own, and not click's for a Ctrl-C."""


def _told(error: BaseException) -> int:
    try:
        return fail(error)
    except KeyboardInterrupt:  # one more
        return INTERRUPTED


def _flushed(code: int) -> int:
    """A reader that went away (``| head``) is no news, but must not end in a stack trace at exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


if __name__ == "__main__":
    entry()
