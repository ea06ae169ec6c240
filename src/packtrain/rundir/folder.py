"""What a run's folder holds, and whose it is."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packtrain.errors import ConfigError, StorageError

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_run_id(now: float | None = None, entropy: bytes | None = None) -> str:
    """A ULID: 48 bits of milliseconds since 1970, 80 random bits, in Crockford's base 32.

    Sorts by time. https://github.com/ulid/spec
    """
    milliseconds = int((time.time() if now is None else now) * 1000)
    value = (milliseconds << 80) | int.from_bytes(entropy or os.urandom(10), "big")
    return "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5))


@dataclass(frozen=True)
class RunIdentity:
    """Who a run is: made by whoever first starts it, never changed."""

    name: str
    run_id: str
    config_hash: str
    config: dict[str, Any]
    """The settings under the hash, so that a difference can be named."""
    created: str

    def to_json(self) -> bytes:
        return (json.dumps(self.__dict__, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> RunIdentity:
        return cls(**json.loads(data))


@dataclass(frozen=True)
class RunDir:
    """The places in a run's folder (default ``runs/<name>``)."""

    path: Path

    @property
    def identity_file(self) -> Path:
        return self.path / "run.json"

    @property
    def config_file(self) -> Path:
        """The run file, resolved: pinned revisions, what `auto` became."""
        return self.path / "config.yaml"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """``step-N/`` folders; complete only with their commit marker."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def receipt_file(self) -> Path:
        return self.path / "receipt.json"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    @property
    def lock_file(self) -> Path:
        return self.path / "lock"

    def identity(self) -> RunIdentity | None:
        """Who owns this folder, or None for a folder that holds no run yet."""
        try:
            return RunIdentity.from_json(self.identity_file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self.identity_file}: {error.strerror or error}") from error
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{self.identity_file}: is not a run's identity ({error})",
                hint="choose another folder with --run-dir, or remove this one",
            ) from error
