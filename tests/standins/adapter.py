"""Files that look like an adapter, with their receipt, and a program that publishes them: to be killed.

python -m standins.adapter FOLDER DESTINATION RUN_ID
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from packtrain.artifacts.publish import publish
from packtrain.storage import open_storage
from packtrain.storage.base import Storage
from packtrain.storage.checksums import digests

NAMES = ("README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json")


@dataclass(frozen=True)
class Adapter:
    files: dict[str, Path]
    receipt: bytes
    run_id: str

    @property
    def contents(self) -> dict[str, bytes]:
        """What a prefix has to hold, besides the claim."""
        return {name: path.read_bytes() for name, path in self.files.items()} | {"receipt.json": self.receipt}

    def publish(self, destination: Storage) -> None:
        publish(self.files, self.receipt, destination, self.run_id)


def load(folder: Path, run_id: str) -> Adapter:
    files = {path.name: path for path in sorted(folder.iterdir())}
    facts = {name: digests(path)._asdict() for name, path in files.items()}
    return Adapter(files, json.dumps({"run_id": run_id, "files": facts}).encode(), run_id)


def make(
    folder: Path, run_id: str, *, seed: int = 0, size: int = 3000, names: tuple[str, ...] = NAMES
) -> Adapter:
    """``size``: bytes of the weights; the other files are small."""
    folder.mkdir(parents=True)
    source = random.Random(f"{run_id} {seed}")
    for name in names:
        (folder / name).write_bytes(source.randbytes(size if name.endswith(".safetensors") else 40))
    return load(folder, run_id)


if __name__ == "__main__":
    adapter = load(Path(sys.argv[1]), sys.argv[3])
    adapter.publish(open_storage(sys.argv[2]))
