"""gcloud and kubectl as programs: what runs is what is shown, and can be read, copied and reviewed.

A :class:`Command` holds no secret. What must not be seen (a token), or is known only later (a project's
number), stands in it as ``$NAME``: the runner fills it in, and a shell does when the line is copied.
"""

from __future__ import annotations

import base64
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from packtrain.errors import ConfigError, StorageError, UnavailableError

#: Seconds for a question, and for a change that Google Cloud makes while we wait.
ASKING = 120.0
MAKING = 3600.0
PAGES = {
    "gcloud": "install it: https://cloud.google.com/sdk/docs/install",
    "kubectl": "install it: gcloud components install kubectl, or https://kubernetes.io/docs/tasks/tools",
}
_WIDTH = 100
_VERBS = {"create", "delete", "describe", "list", "enable", "update", "get", "apply", "annotate", "ls", "rm"}


@dataclass(frozen=True)
class Command:
    argv: tuple[str, ...]
    """The program and its arguments; ``argv[0]`` is found on PATH."""
    stdin: str | None = None
    values: tuple[str, ...] = ()
    """Names that stand in argv or stdin as ``$NAME``, for the runner or a shell to fill in."""

    def shown(self) -> str:
        """Ready to copy into a shell: quoted, with stdin as a here-document."""
        words = [self._quoted(word) for word in self.argv]
        line = " ".join(words)
        if len(line) > _WIDTH:
            flags = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
            line = " \\\n  ".join([" ".join(words[:flags]), *words[flags:]])
        if self.stdin is None:
            return line
        end = "EOF" if self.values else "'EOF'"
        return f"{line} <<{end}\n{self.stdin.rstrip(chr(10))}\nEOF"

    def _quoted(self, word: str) -> str:
        if not any(f"${name}" in word for name in self.values):
            return shlex.quote(word)
        escaped = re.sub(r'(["\\`])', r"\\\1", word)
        return f'"{escaped}"'


@dataclass(frozen=True)
class Finished:
    """How a program ended, and what it wrote."""

    code: int
    stdout: str = ""
    stderr: str = ""

    @property
    def ok(self) -> bool:
        return self.code == 0


class Runner(Protocol):
    """Where commands run. Tests have one that answers from a table."""

    def run(self, command: Command, *, timeout: float = ASKING) -> Finished:
        """Run to the end, within ``timeout`` seconds, whatever the exit code.

        Errors: :class:`ConfigError` where the program is not installed, :class:`UnavailableError` where
        it does not end in time.
        """
        ...


class LiveRunner(Runner, Protocol):
    """A runner that also shows what a long command writes while it runs."""

    def live(self, command: Command, hear: Callable[[str], None], *, timeout: float = MAKING) -> Finished:
        """As :meth:`run`; ``hear`` gets each line of both outputs, and the last hundred are the stderr."""
        ...


@dataclass
class Programs:
    """The runner of this machine: programs found on PATH, with an environment of their own."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to this process's; ``KUBECONFIG`` here keeps kubectl away from the user's own context."""
    for_program: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Added for one program alone, by its name."""
    values: dict[str, str] = field(default_factory=dict)
    """What ``$NAME`` stands for, where it may be seen."""
    later: dict[str, Callable[[], str]] = field(default_factory=dict)
    """The same, for what can be asked only when it is needed."""
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    """What ``$NAME`` stands for in stdin alone; struck out from whatever a program writes."""

    def run(self, command: Command, *, timeout: float = ASKING) -> Finished:
        argv, stdin = self._filled(command)
        with _endings(command, timeout):
            code, stdout, stderr = _run(argv, stdin, self._environment(command.argv[0]), timeout)
        return Finished(code, self._redacted(stdout), self._redacted(stderr))

    def live(self, command: Command, hear: Callable[[str], None], *, timeout: float = MAKING) -> Finished:
        argv, stdin = self._filled(command)
        last: deque[str] = deque(maxlen=100)

        def heard(line: str) -> None:
            last.append(self._redacted(line))
            hear(last[-1])

        with _endings(command, timeout):
            code = _run_live(argv, stdin, self._environment(command.argv[0]), timeout, heard)
        return Finished(code, stderr="\n".join(last))

    def _filled(self, command: Command) -> tuple[list[str], str | None]:
        assert not any(f"${name}" in word for name in self.secrets for word in command.argv), command.argv
        for name in command.values:
            if name in self.later and name not in self.values:
                self.values[name] = self.later[name]()
        program = command.argv[0]
        path = shutil.which(program)
        if path is None:
            raise not_installed(program)
        argv = [path, *(_filled(word, command.values, self.values) for word in command.argv[1:])]
        stdin = command.stdin
        if stdin is not None:
            stdin = _filled(stdin, command.values, self.values | self.secrets)
        return argv, stdin

    def _environment(self, program: str) -> dict[str, str]:
        # A question that nobody sees must not wait for an answer; and no news about gcloud's own updates.
        quiet = {
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
            "CLOUDSDK_CORE_VERBOSITY": "warning",
        }
        ours = {name: value for name, value in os.environ.items() if name not in self.secrets}
        return {**ours, **quiet, **self.environment, **self.for_program.get(program, {})}

    def _redacted(self, text: str) -> str:
        for name, secret in self.secrets.items():
            if secret:
                encoded = base64.b64encode(secret.encode()).decode()
                text = text.replace(secret, f"[{name}]").replace(encoded, f"[{name}]")
        return text


def not_installed(program: str) -> ConfigError:
    return ConfigError(f"{program} is not installed, or not on PATH", hint=PAGES.get(program))


def spoken(command: Command) -> str:
    """A command's name for a sentence: its words without flags, such as ``gcloud storage buckets create``."""
    words: list[str] = []
    for word in command.argv:
        if word.startswith("-") or len(words) == 5 or not re.fullmatch(r"[a-z][a-z-]*", word):
            break
        words.append(word)
        if word in _VERBS or word.endswith("-binding"):
            break
    return " ".join(words) or command.argv[0]


def script(commands: Iterable[Command]) -> str:
    """Commands for a person to copy, one after the other."""
    return "\n".join(command.shown() for command in commands)


def _filled(text: str, names: tuple[str, ...], values: Mapping[str, str]) -> str:
    for name in names:
        if f"${name}" in text:
            text = text.replace(f"${name}", values[name])
    return text


@contextmanager
def _endings(command: Command, timeout: float) -> Iterator[None]:
    """Our errors for a program that does not end, or cannot begin."""
    try:
        yield
    except subprocess.TimeoutExpired:
        raise UnavailableError(
            f"{spoken(command)} did not end within {timeout:.0f} seconds",
            hint="check the network and the proxy, then run the same command again",
        ) from None
    except OSError as error:
        raise StorageError(f"{command.argv[0]} cannot be run: {error.strerror or error}") from None


def _run(
    argv: list[str], stdin: str | None, environment: dict[str, str], timeout: float
) -> tuple[int, str, str]:
    """In a process group of its own, so that Ctrl-C ends it (with its children) by our hand, once."""
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout)
        except BaseException:
            _end(process)
            raise
    return process.returncode, stdout, stderr


def _run_live(
    argv: list[str],
    stdin: str | None,
    environment: dict[str, str],
    timeout: float,
    hear: Callable[[str], None],
) -> int:
    """As :func:`_run`, with both outputs as one, by lines, as they come."""
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        start_new_session=True,
    ) as process:
        late = threading.Event()

        def end_late() -> None:
            late.set()
            _end(process)

        timer = threading.Timer(timeout, end_late)
        timer.daemon = True
        timer.start()
        try:
            if process.stdin:
                with suppress(BrokenPipeError), process.stdin:
                    process.stdin.write(stdin or "")
            assert process.stdout
            for line in process.stdout:
                hear(line.rstrip("\n"))
            process.wait()
        except BaseException:
            _end(process)
            raise
        finally:
            timer.cancel()
    if late.is_set():
        raise subprocess.TimeoutExpired(argv, timeout)
    return process.returncode


def _end(process: subprocess.Popen[str]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(5)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        return
