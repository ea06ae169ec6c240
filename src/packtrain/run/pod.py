"""What a pod's environment says of the run that it is part of, for whoever needs it.

``packtrain submit`` writes these variables into the manifests; on a laptop none of them is there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from packtrain.config import RunConfig
from packtrain.errors import UsageError
from packtrain.run.mirror import default_run_uri
from packtrain.storage import is_bucket

#: The id that submit made: the run gets it when it is new.
RUN_ID = "PACKTRAIN_RUN_ID"
#: The reference of the container's image, with its digest.
IMAGE = "PACKTRAIN_IMAGE"
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


def given_run_id(environment: Mapping[str, str] = os.environ) -> str | None:
    """The run's id as ``PACKTRAIN_RUN_ID`` says; None outside of a pod.

    Raises :class:`UsageError` for a value that is no ULID.
    """
    given = environment.get(RUN_ID)
    if given and not _ULID.fullmatch(given):
        raise UsageError(
            f"{RUN_ID} is {given!r}, which is no ULID (26 signs in Crockford's base 32)",
            hint="leave it out: the run makes its own",
        )
    return given or None


def image(environment: Mapping[str, str] = os.environ) -> str | None:
    """The container's image, for the receipt; None outside of a container."""
    return environment.get(IMAGE) or None


def state_uri(config: RunConfig, environment: Mapping[str, str] = os.environ) -> str | None:
    """Where a pod's run keeps its state in a bucket; None outside of a pod, and without a bucket."""
    run_id = given_run_id(environment)
    if run_id is None:
        return None
    if config.output.run_uri is not None:
        return config.output.run_uri if is_bucket(config.output.run_uri) else None
    return default_run_uri(config.output.uri, config.name, run_id)
