"""What a setup on this machine has begun and not ended, so that the next one can tell it for its own.

Needed where Google Cloud cannot make a thing and label it in one request (a bucket).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from packtrain.gcp.site import Site
from packtrain.rundir import write_atomically


@dataclass(frozen=True)
class Journal:
    path: Path

    def began(self, key: str) -> bool:
        return key in self._read()

    def begin(self, key: str) -> None:
        self._write({*self._read(), key})

    def end(self, key: str) -> None:
        """Also where it never began."""
        begun = self._read()
        if key in begun:
            self._write(begun - {key})

    def _read(self) -> set[str]:
        try:
            return set(json.loads(self.path.read_text())["begun"])
        except (OSError, ValueError, KeyError, TypeError):
            return set()  # none, or a damaged one: the labels in the cloud are what counts

    def _write(self, keys: set[str]) -> None:
        if keys:
            write_atomically(self.path, (json.dumps({"begun": sorted(keys)}) + "\n").encode())
        else:
            self.path.unlink(missing_ok=True)


def journal_of(site: Site) -> Journal:
    return Journal(site.kubeconfig.with_suffix(".setup.json"))
