"""The program that brings a base into a volume, for a pod in which another program serves it."""

from __future__ import annotations

from pathlib import Path

import pytest
from standins.bucket import BucketServer, bucket_server  # noqa: F401
from tiny import make_tiny_base

from packtrain.model.bring import main


def test_a_base_of_a_bucket_is_behind_a_relative_link(
    bucket_server: BucketServer,  # noqa: F811
    tmp_path: Path,
) -> None:
    base = make_tiny_base(tmp_path / "tiny")
    for path in base.iterdir():
        bucket_server.put(f"models/tiny/{path.name}", path.read_bytes())
    volume = tmp_path / "volume"
    for _ in range(2):  # an init container may run again
        assert main([bucket_server.uri("models/tiny"), str(volume)]) == 0
    link = volume / "base"
    assert not link.readlink().is_absolute()
    moved = volume.rename(tmp_path / "mounted-elsewhere")
    assert (moved / "base" / "config.json").read_bytes() == (base / "config.json").read_bytes()


@pytest.mark.parametrize("arguments", [[], ["gs://b/p"], ["/folder", "/d"], ["org/name", "/d"]])
def test_anything_else_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "SOURCE DIR" in capsys.readouterr().err


def test_an_empty_place_is_told(
    bucket_server: BucketServer,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([bucket_server.uri("nothing"), str(tmp_path / "v")]) == 78
    assert "holds no model" in capsys.readouterr().err
