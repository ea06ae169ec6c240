"""What is told of shell scripts, without running them."""

from __future__ import annotations

import pytest

from packtrain.kube.doctor import shell


@pytest.mark.parametrize(
    "script",
    [
        "trap 'exit 0' TERM",
        '  trap "kill $pid; exit 0" SIGINT SIGTERM',
        "trap -- 'exit 0' 15",
        "stop() {\n  kill $pid\n  exit 0\n}\ntrap stop TERM\n",
        "function stop {\n exit 0\n}\ntrap 'stop' SIGTERM\n",
        "on_term() ( exit 0 )\ntrap on_term SIGTERM\n",
        "python -c 'signal.signal(signal.SIGTERM, lambda s, f: os._exit(0))'",
    ],
)
def test_success_on_sigterm_is_seen(script: str) -> None:
    assert shell.exits_zero_on_sigterm(script)


@pytest.mark.parametrize(
    "script",
    [
        "trap 'exit 0' EXIT",
        "trap 'exit 143' TERM",
        "trap 'kill $pid; wait $pid; exit $?' TERM",
        "trap '' TERM",
        "trap - TERM",
        "stop() {\n  exit 1\n}\ntrap stop TERM\nexit 0\n",
        "trap stop TERM",
        "echo trap and exit 0",
        "_sigterm() (kill -SIGTERM $! 2>/dev/null;);\ntrap _sigterm SIGTERM;\nexit 0",
        "trap unclosed( TERM",
        "stop() {\ntrap stop TERM",
    ],
)
def test_no_success_on_sigterm(script: str) -> None:
    assert not shell.exits_zero_on_sigterm(script)


@pytest.mark.parametrize(
    ("script", "last"),
    [
        ("a\nb 2>&1 | tee log", "b 2>&1 | tee log"),
        ("a || true", "a || true"),
        ("a; b || :", "b || :"),
        ("set -o pipefail; a | tee log", ""),
        ("a || exit 3", ""),
        ("a | b\nc", ""),
        ("echo 'a | b'", ""),
        ("a # | b", ""),
        ("cat <<EOF\na | b\nEOF\nc", ""),
        ("a \\\n  --flag | tee x", "a    --flag | tee x"),
        ("", ""),
    ],
)
def test_a_last_command_that_hides_failure(script: str, last: str) -> None:
    assert shell.hides_exit_code(script) == last


@pytest.mark.parametrize(
    ("script", "forwards"),
    [
        ("python a.py", True),
        ("a\nb", False),
        ("a && exec b", True),
        ("exec 2>&1\na\nb", False),
        ("trap 'kill $p' TERM\na & p=$!\nwait", True),
        ("a | b", False),
        ("tini -- a; b", True),
    ],
)
def test_whether_a_signal_is_passed_on(script: str, forwards: bool) -> None:
    assert shell.forwards_signals(script) is forwards


@pytest.mark.parametrize("script", ["sleep infinity", "a; exec sleep inf", "tail -f /dev/null", "sleep 365d"])
def test_sleeping_for_ever(script: str) -> None:
    assert shell.sleeps_for_ever(script)


@pytest.mark.parametrize(
    "script", ["sleep 60", "echo sleep infinity", "tail -f log", "python sleep.py infinity"]
)
def test_not_sleeping_for_ever(script: str) -> None:
    assert not shell.sleeps_for_ever(script)


@pytest.mark.parametrize(
    "command", ["torchrun a", "python3 -m torch.distributed.run a", "x && accelerate launch a"]
)
def test_launchers(command: str) -> None:
    assert shell.LAUNCHERS.search(command)


@pytest.mark.parametrize(
    "command", ["python notorchrun.py", "torch.distributed.checkpoint", "accelerate config"]
)
def test_no_launchers(command: str) -> None:
    assert not shell.LAUNCHERS.search(command)
