"""How a process ends: its exit code, what it printed, and no interpreter that is taken down."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAD = """
import atexit, os, sys, threading, time
from packtrain.ending import end_process

class Kept:
    def __del__(self):
        os.write(1, b"taken down\\n")

sys.modules["kept"] = Kept()  # goes when the interpreter does
"""


def ended(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HEAD + body], capture_output=True, text=True, timeout=60, check=False
    )


def test_handlers_run_and_what_was_printed_arrives_but_nothing_is_taken_down() -> None:
    told = ended("atexit.register(print, 'handler'); print('printed', end=' '); end_process(75)")
    assert (told.returncode, told.stdout, told.stderr) == (75, "printed handler\n", "")
    assert "taken down" in ended("sys.exit(75)").stdout  # the check can fail


@pytest.mark.parametrize(
    "body",
    [
        "end_process(3, tidy=False)",
        "threading.Thread(target=time.sleep, args=[60], daemon=True).start(); end_process(3)",
        "threading.Thread(target=time.sleep, args=[60]).start(); end_process(3)",
    ],
)
def test_nobody_is_waited_for_where_one_is_impatient_or_a_thread_was_left(body: str) -> None:
    told = ended("atexit.register(print, 'handler')\n" + body)
    assert (told.returncode, told.stdout, told.stderr) == (3, "", "")


def test_without_streams_the_code_is_kept() -> None:
    told = ended("sys.stdout = None; sys.stderr.close(); end_process(4)")
    assert (told.returncode, told.stdout, told.stderr) == (4, "", "")
