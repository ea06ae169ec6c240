"""The preflight pod's program: asks with the pod's own rights what the run will ask for later.

    python -m packtrain.run.preflight RUN.yaml

One line of JSON on stdout, one of packtrain's exit codes at the end. Rights that were given a minute ago
are not in force everywhere yet: what is refused is asked again for a while.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from packtrain.config import RunConfig
from packtrain.ending import end_process
from packtrain.errors import AccessError, BugError, PacktrainError, UnavailableError, UsageError
from packtrain.report.trackers.tracker import check_installed
from packtrain.run.gate import Check, checks
from packtrain.run.outcome import gravity

#: Seconds for which a refusal is asked again; 0 for none.
PATIENCE = "PACKTRAIN_PREFLIGHT_PATIENCE"
_PATIENCE, _PAUSE = 120.0, 10.0


def ask(
    config: RunConfig,
    patience: float = _PATIENCE,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Check]:
    """All answers; what is refused, or away, is asked again within ``patience`` seconds."""
    begun = clock()
    while True:
        answers = [*_trackers(config), *checks(config, write=True)]
        refused = [each for each in answers if isinstance(each.error, AccessError | UnavailableError)]
        passing = bool(refused) and all(
            each.name == "bucket" or isinstance(each.error, UnavailableError) for each in refused
        )
        if not passing or clock() - begun + _PAUSE > patience:
            return answers
        sleep(_PAUSE)


def _trackers(config: RunConfig) -> list[Check]:
    """Those of `report.to` have to be in this image."""
    try:
        check_installed(config.report.to)
    except UsageError as error:
        return [Check("trackers", ", ".join(config.report.to), error=error)]
    return [Check("trackers", ", ".join(config.report.to))] if config.report.to else []


def told(answers: Sequence[Check]) -> dict[str, Any]:
    """What the line says."""
    failures = [each.error for each in answers if each.error is not None]
    code = max((error.exit_code for error in failures), key=gravity, default=0)
    return {
        "packtrain": "preflight",
        "exit_code": code,
        "checks": [
            {
                "name": each.name,
                "subject": each.subject,
                "ok": each.error is None,
                "exit_code": each.error.exit_code if each.error else 0,
                "message": str(each.error) if each.error else None,
                "hint": each.error.hint if each.error else None,
            }
            for each in answers
        ],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if len(given) != 1:
            raise UsageError("usage: python -m packtrain.run.preflight RUN.yaml")
        from packtrain.runfile import load

        line = told(ask(load(Path(given[0])).config, float(os.environ.get(PATIENCE, _PATIENCE))))
    except PacktrainError as error:
        line = told([Check("run file", given[0] if given else "", error=error)])
    except Exception as error:  # noqa: BLE001  (the pod's last word has to be one that submit reads)
        bug = BugError(f"{type(error).__name__}: {error}")
        line = told([Check("run file", given[0] if given else "", error=bug)])
    print(json.dumps(line), flush=True)  # noqa: T201  (the result)
    return int(line["exit_code"])


if __name__ == "__main__":
    end_process(main())
