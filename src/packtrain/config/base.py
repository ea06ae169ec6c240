"""What all sections of the run file are made of: how a section is read, durations, amounts, shares."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)")
NAME = r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$"
DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
NOT_BLANK = r"\S"
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(duration: str) -> float:
    """Seconds in a duration such as ``30s``, ``5m``, ``1.5h`` or ``2d``."""
    match = DURATION.fullmatch(duration.strip())
    if not match:
        raise ValueError("is a duration such as 30s, 5m, 1.5h or 2d")
    return float(match[1]) * SECONDS[match[2]]


def _duration(value: Any) -> Any:
    if isinstance(value, str):
        seconds(value)
    return value


def _money(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"\d+(\.\d+)? USD", value):
        raise ValueError("is an amount such as 200 USD")
    return value


Duration = Annotated[str, BeforeValidator(_duration)]
Money = Annotated[str, BeforeValidator(_money)]
Expected = Annotated[str, Field(pattern=NOT_BLANK)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Steps = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of all sections: unknown keys and lax conversions are refused."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
