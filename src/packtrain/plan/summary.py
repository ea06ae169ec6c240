"""The few numbers of a plan that are kept to be compared with what happens."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packtrain.plan.plan import Planned


@dataclass(frozen=True)
class Summary:
    device: str
    """``cuda`` or ``cpu``."""
    peak_bytes: int
    reserved_bytes: int
    micro_batch: int
    steps: int | None
    tokens_per_second: float | None
    seconds: dict[str, float] | None
    """``low``, ``expected``, ``high``."""
    training_seconds: dict[str, float] | None
    usd: dict[str, float] | None
    peak_flops: float | None = None
    """Operations a second that the machine's speed is a share of."""

    @classmethod
    def of(cls, plan: Planned) -> Summary:
        time, usd, speed = plan.time, plan.cost.usd, plan.tokens_per_second
        return cls(
            device=plan.setup.device,
            peak_bytes=plan.profile.peak_bytes,
            reserved_bytes=plan.profile.reserved_bytes,
            micro_batch=plan.setup.micro_batch,
            steps=plan.data.steps if plan.data else None,
            tokens_per_second=None if speed is None else round(speed, 1),
            seconds=None if time is None else time.seconds.to_json(),
            training_seconds=None if time is None else time.training.to_json(),
            usd=None if usd is None else usd.to_json(),
            peak_flops=plan.peak_flops,
        )

    def to_json(self) -> str:
        """In one line."""
        return json.dumps(asdict(self), separators=(",", ":"))

    def fields(self) -> dict[str, Any]:
        """Of the event `plan`."""
        return asdict(self)

    @classmethod
    def from_json(cls, text: str) -> Summary:
        """Errors: ValueError, TypeError for what is no summary."""
        return cls(**json.loads(text))
