"""Output that nobody reads any more is dropped; what is read stays as it is."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from packtrain.train.progress import PlainProgress
from packtrain.train.terminal import Outlived, outlived_output


def test_a_pipe_whose_reader_has_gone_ends_nothing() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", buffering=1) as stream:
        progress = PlainProgress(Outlived(stream))  # type: ignore[arg-type]
        progress.stage("heard")
        assert os.read(reader, 100) == b"heard\n"
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            os.write(writer, b"x")
        for _ in range(3):
            progress.stage("not heard")
        os.write(writer, b"the descriptor itself can be written to again")
    assert stream.closed


def test_a_full_disk_behind_it_ends_nothing() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full: not on this system")
    with Path("/dev/full").open("w") as stream:
        outlived = Outlived(stream)
        assert outlived.write("x" * 100_000) == 100_000
        outlived.flush()


def test_what_is_read_is_passed_on_and_the_streams_come_back() -> None:
    out, err = sys.stdout, sys.stderr
    with outlived_output():
        assert sys.stdout.encoding == out.encoding
        assert sys.stdout.isatty() == out.isatty()
        print("to nobody in particular")
    assert (sys.stdout, sys.stderr) == (out, err)
    kept = io.StringIO()
    assert Outlived(kept).write("word") == 4
    Outlived(kept).flush()
    assert kept.getvalue() == "word"
