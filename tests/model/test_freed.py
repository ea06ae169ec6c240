"""What a step frees is there for the next one. In a process of its own: the setting is for all of it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PIECE = 48 << 20
TAKES_AND_FREES = f"""
import ctypes, sys
from pathlib import Path
from packtrain.model.freed import give_back_freed_memory, keep_freed_memory
if sys.argv[1] != "as it comes":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def resident():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("VmRSS:")) * 1024
before = resident()
piece = ctypes.c_void_p(libc.malloc({PIECE}))
ctypes.memset(piece, 1, {PIECE})
libc.free(piece)
if sys.argv[1] == "give back":
    assert resident() - before > {PIECE} * 0.9
    assert give_back_freed_memory()
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's setting")
@pytest.mark.parametrize("setting", ["keep", "as it comes", "give back"])
def test_a_large_piece_that_was_freed_stays_with_the_process(setting: str) -> None:
    command = [sys.executable, "-c", TAKES_AND_FREES, setting]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    left = int(ended.stdout)
    assert left > PIECE * 0.9 if setting == "keep" else left < PIECE * 0.1
