"""The base is in memory once for all ranks of a machine: measured by the pages that they share."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import results, run_ranks
from tiny import make_tiny_base

from packtrain.config import ModelConfig
from packtrain.errors import StorageError
from packtrain.model.one_copy import PREFIX, one_copy
from packtrain.model.parallel import World, joined
from packtrain.model.weights import load_model, resolve_base

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pages are looked up in /proc")

#: Some 17 million weights: 68 MB in float32.
SHAPE = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4}


def mappings() -> list[tuple[int, int, str, int]]:
    """First address, last one, file, and proportional share in memory of each of our mappings."""
    found = []
    head = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)$")
    first, last, name = 0, 0, ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if match := head.match(line):
            first, last, name = int(match[1], 16), int(match[2], 16), match[3]
        elif line.startswith("Pss:"):
            found.append((first, last, name, int(line.split()[1]) << 10))
    return found


def memory_of_ranks(folder: str) -> dict[str, Any]:
    """Where this rank's weights are, and its share of that."""
    with joined() as world:
        config = ModelConfig(source=folder)
        with one_copy(resolve_base(config), torch.float32, world) as files:
            model = load_model(files, config, device=world.device, dtype=torch.float32)
        weights = list(model.parameters())
        total = sum(float(weight.double().abs().sum()) for weight in weights)
        world.barrier()
        ours = [each for each in mappings() if "model.safetensors" in each[2]]
        world.barrier()
        return {
            "mapped": all(any(first <= w.data_ptr() < last for first, last, *_ in ours) for w in weights),
            "share": sum(share for *_, share in ours),
            "size": sum(weight.numel() * 4 for weight in weights),
            "total": total,
            "left": len(list(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))),
        }


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_two_ranks_take_the_memory_of_one_base(
    tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_tiny_base(tmp_path / "base", dtype=dtype, shape=SHAPE)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ranks = results(run_ranks(memory_of_ranks, 2, str(base)))
    size = ranks[0]["size"]
    assert size > 60 << 20
    assert all(rank["mapped"] for rank in ranks), "each weight is in the file"
    assert 0.99 * size < sum(rank["share"] for rank in ranks) < 1.05 * size, ranks
    assert ranks[0]["total"] == ranks[1]["total"] > 0
    assert [rank["left"] for rank in ranks] == [0, 0]


def test_the_weights_are_those_that_loading_converts(tmp_path: Path) -> None:
    folder = make_tiny_base(tmp_path / "base", dtype="bfloat16")
    config = ModelConfig(source=str(folder))
    base = resolve_base(config)
    plain = load_model(base, config, device=torch.device("cpu"), dtype=torch.float32).state_dict()
    with one_copy(base, torch.float32, _Two()) as files:
        assert files.folder != base.folder
        assert (files.source, files.identity) == (base.source, base.identity)
        mapped = load_model(files, config, device=torch.device("cpu"), dtype=torch.float32)
    assert not files.folder.exists()
    for name, weight in mapped.state_dict().items():
        assert torch.equal(weight, plain[name]), name
    address = mapped.get_input_embeddings().weight.data_ptr()
    [name] = [name for first, last, name, _ in mappings() if first <= address < last]
    assert name.endswith("model.safetensors (deleted)")


class _Two(World):
    """As if there were another rank on this machine, which does as we do."""

    def __init__(self) -> None:
        super().__init__(size=2, local_size=2)

    def main_first(self, work: Any) -> Any:
        return work()

    def gather(self, value: Any) -> list[Any]:
        return [value, ""]

    def barrier(self) -> None:
        pass


def test_what_needs_no_conversion_is_mapped_where_it_is(tmp_path: Path) -> None:
    config = ModelConfig(source=str(make_tiny_base(tmp_path / "base")))
    base = resolve_base(config)
    for world, dtype in ((_Two(), torch.float32), (World(), torch.bfloat16)):
        with one_copy(base, dtype, world) as files:
            assert files is base


def test_what_a_killed_rank_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / f"{PREFIX}dead"
    left.mkdir()
    (left / ".guard").touch()
    config = ModelConfig(source=str(make_tiny_base(tmp_path / "base", dtype="bfloat16")))
    with one_copy(resolve_base(config), torch.float32, _Two()) as files:
        assert not left.exists()
        with one_copy(resolve_base(config), torch.float32, _Two()) as other:
            assert other.folder != files.folder
            assert files.folder.exists(), "it is in use"


def test_no_room_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(source=str(make_tiny_base(tmp_path / "base", dtype="bfloat16")))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("packtrain.model.one_copy.save_file", full)
    with (
        pytest.raises(StorageError, match="No space left") as raised,
        one_copy(resolve_base(config), torch.float32, _Two()),
    ):
        pass
    assert "TMPDIR" in str(raised.value.hint)
