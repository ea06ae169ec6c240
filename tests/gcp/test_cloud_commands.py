"""Commands: what is shown does in a shell what the runner does, and no secret is where it can be seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from packtrain.errors import ConfigError, UnavailableError
from packtrain.gcp.commands import Command, Programs, script, spoken

SECRET = "hf_aVerySecretToken"
#: Writes what it was given, as JSON, to the file in $SEEN.
PROGRAM = f"""#!{sys.executable}
import json, os, sys
told = [sys.argv[1:], "" if sys.stdin.isatty() else sys.stdin.read()]
open(os.environ["SEEN"], "a").write(json.dumps(told) + "\\n")
print("told", *told)
print(os.environ.get("HF_TOKEN", "no token in the environment"), file=sys.stderr)
"""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program ``gcloud`` on PATH, and the file in which it notes what it was given."""
    program = tmp_path / "bin" / "gcloud"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    return tmp_path / "seen"


def told(path: Path) -> list[list[object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


NASTY = (
    Command(("gcloud", "a", "--flag=b c", "it's", 'a "b"', "$HOME", "`id`", "", "ü", "a\\b", "x;y", "*")),
    Command(("gcloud", "--member=principal://x/$NUMBER/y", '--note=a"b`c\\d', "$HOME"), values=("NUMBER",)),
    Command(("gcloud", *(f"--flag-{index}=value" for index in range(30)))),
    Command(("gcloud", "apply"), stdin="a: '$HOME'\nb: `id`\n"),
    Command(("gcloud", "apply"), stdin='token: "$HF_TOKEN"\n', values=("HF_TOKEN",)),
)


@pytest.mark.parametrize("command", NASTY, ids=range(len(NASTY)))
def test_a_shell_does_with_the_shown_text_what_the_runner_does(command: Command, seen: Path) -> None:
    runner = Programs(values={"NUMBER": "12345"}, secrets={"HF_TOKEN": SECRET})
    assert runner.run(command).ok
    environment = {**os.environ, "NUMBER": "12345", "HF_TOKEN": SECRET}
    subprocess.run(["bash", "-c", script([command])], env=environment, check=True, stdin=subprocess.DEVNULL)
    by_runner, by_shell = told(seen)
    assert by_runner == by_shell


def test_a_secret_reaches_stdin_and_nothing_else(seen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    command = Command(("gcloud", "apply"), stdin='token: "$HF_TOKEN"\n', values=("HF_TOKEN",))
    runner = Programs(secrets={"HF_TOKEN": SECRET})
    finished = runner.run(command)
    assert told(seen) == [[["apply"], f'token: "{SECRET}"\n']]
    assert "[HF_TOKEN]" in finished.stdout, "the program repeats what it reads, and the secret is struck out"
    assert "no token in the environment" in finished.stderr
    for text in (repr(command), command.shown(), repr(runner), repr(finished)):
        assert SECRET not in text


def test_a_secret_in_the_arguments_is_a_bug_that_runs_nothing(seen: Path) -> None:
    runner = Programs(secrets={"HF_TOKEN": SECRET})
    with pytest.raises(AssertionError):
        runner.run(Command(("gcloud", "--token=$HF_TOKEN"), values=("HF_TOKEN",)))
    assert not seen.exists()


def test_a_secret_is_struck_out_in_base64_too(seen: Path) -> None:
    import base64

    encoded = base64.b64encode(SECRET.encode()).decode()
    said = Programs(secrets={"HF_TOKEN": SECRET}).run(Command(("gcloud", encoded)))
    assert encoded not in said.stdout


@pytest.mark.parametrize("program", ["gcloud", "kubectl"])
def test_a_program_that_is_not_installed(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=f"{program} is not installed") as raised:
        Programs().run(Command((program, "version")))
    assert "https://" in str(raised.value.hint)


def test_a_program_that_does_not_end_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "gcloud"
    program.write_text(f"#!/bin/bash\nsleep 300 & echo $! > {tmp_path}/child\nwait\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UnavailableError, match="gcloud storage buckets create did not end within 2 seconds"):
        Programs().run(Command(("gcloud", "storage", "buckets", "create", "gs://b")), timeout=2)
    child = int((tmp_path / "child").read_text())
    _gone(child)


def test_ctrl_c_ends_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "gcloud"
    program.write_text(f"#!/bin/bash\necho $$ > {tmp_path}/pid\nexec sleep 300\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def interrupt() -> None:
        import signal

        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        Programs().run(Command(("gcloud", "x")))
    thread.join()
    _gone(int((tmp_path / "pid").read_text()))


def _gone(pid: int) -> None:
    """A process ends, or is a zombie that nobody has waited for, within a generous time."""
    for _ in range(1500):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} still runs")


def test_a_command_has_a_name_for_a_sentence() -> None:
    assert (
        spoken(Command(("gcloud", "storage", "buckets", "create", "gs://b")))
        == "gcloud storage buckets create"
    )
    assert spoken(Command(("kubectl", "apply", "--server-side"))) == "kubectl apply"
