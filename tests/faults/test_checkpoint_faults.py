"""A disk that is full, a process that is killed in the middle of a save: the last good one stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import make_store, no_warning, snapshot, step_of, until

from packtrain.errors import StorageError

SIZE = 1 << 14
"""Numbers in each tensor: 192 KiB a checkpoint."""


class TestFullDisk:
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Path]:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"mount: a file system cannot be mounted here ({mounted.stderr.strip()})")
        yield folder
        subprocess.run(["umount", str(folder)], check=True)

    def fill(self, disk: Path, room: int) -> Path:
        """Leave ``room`` KiB."""
        free = os.statvfs(disk)
        filler = disk / "filler"
        filler.write_bytes(bytes(free.f_bavail * free.f_frsize - room * 1024))
        return filler

    @pytest.mark.parametrize("room", [0, 4, 60, 68, 132, 200])
    def test_training_goes_on_from_the_last_good_and_saves_when_there_is_room(
        self, disk: Path, room: int
    ) -> None:
        """Full at the folder, in the adapter, in the optimizer, in the commit."""
        warnings: list[str] = []
        store = make_store(disk / "checkpoints", keep=2, warn=warnings.append)
        assert store.save(snapshot(1, SIZE), wait=True)
        filler = self.fill(disk, room)
        for step in (2, 3, 4):
            assert store.save(snapshot(step, SIZE), wait=False)
            until(lambda: store.ready)
            store.poll()
        assert len(warnings) == 1, warnings
        assert warnings[0].startswith("saving failed: cannot write the checkpoint ")
        assert "No space left on device" in warnings[0]
        with pytest.raises(StorageError, match="No space left") as caught:
            store.save(snapshot(5, SIZE), wait=True)
        assert caught.value.exit_code == 74
        assert [path.name for path in (disk / "checkpoints").iterdir()] == ["step-1"], "nothing half is left"
        assert step_of(make_store(disk / "checkpoints").newest()) == 1
        filler.unlink()
        assert store.save(snapshot(6, SIZE), wait=False)
        store.close(wait_for_mirror=False, timeout=0)
        assert len(warnings) == 2 and warnings[1].startswith("checkpoints are written again")
        assert step_of(make_store(disk / "checkpoints").newest()) == 6

    def test_an_older_one_goes_for_one_that_has_to_be_written(self, disk: Path) -> None:
        folder = disk / "checkpoints"
        store = make_store(folder, keep=2, warn=no_warning)
        for step in (1, 2):
            assert store.save(snapshot(step, SIZE), wait=True)
        self.fill(disk, 4)
        assert store.save(snapshot(3, SIZE), wait=True)
        assert sorted(path.name for path in folder.iterdir()) == ["step-2", "step-3"]
        store.close(wait_for_mirror=False, timeout=0)

    def test_the_last_good_one_never_goes(self, disk: Path) -> None:
        """The newer of two is damaged."""
        folder = disk / "checkpoints"
        store = make_store(folder, keep=2, warn=no_warning)
        for step in (1, 2):
            assert store.save(snapshot(step, SIZE), wait=True)
        weights = folder / "step-2" / "adapter.safetensors"
        with weights.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"?")
        self.fill(disk, 4)
        assert store.save(snapshot(3, SIZE), wait=True)
        assert sorted(path.name for path in folder.iterdir()) == ["step-1", "step-3"]
        store.close(wait_for_mirror=False, timeout=0)


SAVE = """
import sys
from pathlib import Path
from checkpoints import make_store, snapshot
store = make_store(Path(sys.argv[1]))
print("ready", flush=True)
for step in range(1, 1_000_000):
    store.save(snapshot(step, 1 << 18), wait=True)
    print(step, flush=True)
"""


@pytest.mark.slow
def test_killed_in_the_middle_of_a_save(tmp_path: Path) -> None:
    """Whatever was reported as saved is there, whole, or a newer one; and what is left is swept."""
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent / 'src'}"}
    for number, delay in enumerate((0.0, 0.011, 0.023)):
        folder = tmp_path / f"{number}"
        command = [sys.executable, "-c", SAVE, str(folder)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line == "5\n":
                    break
            time.sleep(delay)
            process.kill()
            reported = [5, *(int(line) for line in process.stdout.read().split("\n")[:-1])]
        store = make_store(folder, warn=no_warning)
        step = step_of(store.newest())
        assert step in {reported[-1], reported[-1] + 1}
        assert store.save(snapshot(step + 1), wait=True)
        assert all(path.name.startswith("step-") for path in folder.iterdir())
        assert len(list(folder.iterdir())) == 2
