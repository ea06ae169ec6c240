"""What a tracker is to a run, which there are, and whether those that a run file names are installed.

None of them is imported before an attempt has begun to train: they take seconds, and what they fail at
is no failure of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from packtrain.config import Tracker as Name
from packtrain.errors import UsageError


@dataclass(frozen=True)
class About:
    """Whose run it is, and what it was asked to do."""

    run_id: str
    name: str
    settings: Mapping[str, Any]
    """``section.key`` and value, of what others may see."""
    folder: Path
    """The run's, for what a tracker keeps on this machine."""


@dataclass(frozen=True)
class Row:
    """Numbers of one moment."""

    time: float
    """Seconds since 1970."""
    step: int
    values: Mapping[str, float]
    """By tag, such as ``train/loss``."""


@dataclass(frozen=True)
class Ending:
    """How an attempt ended."""

    outcome: str
    """``done``, ``failed``, ``preempted``, or ``no last word``."""
    exit_code: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The receipt's, of a run that is done."""
    output: str | None = None
    """Where the adapter went, if it was published."""


class Tracker(Protocol):
    """A run at a tracker, begun or gone on with. Any error of any call means: it is given up."""

    @property
    def link(self) -> str | None:
        """Where a person can look at it."""

    def log(self, rows: Sequence[Row]) -> None: ...

    def finish(self, ending: Ending) -> None: ...


@dataclass(frozen=True)
class Kind:
    title: str
    module: str
    """What is imported of it."""
    variables: tuple[str, ...]
    """Of the environment, by which it finds out where and as whom: what a pod gets."""


KINDS: dict[Name, Kind] = {
    "wandb": Kind(
        "Weights & Biases",
        "wandb",
        ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_MODE"),
    ),
    "mlflow": Kind(
        "MLflow",
        "mlflow",
        (
            "MLFLOW_TRACKING_URI",
            "MLFLOW_TRACKING_USERNAME",
            "MLFLOW_TRACKING_PASSWORD",
            "MLFLOW_TRACKING_TOKEN",
            "MLFLOW_EXPERIMENT_NAME",
        ),
    ),
    "trackio": Kind(
        "trackio",
        "trackio",
        ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_WRITE_TOKEN", "TRACKIO_PROJECT"),
    ),
}
#: Where runs go unless the tracker's own variable names another project or experiment.
PROJECT = "packtrain"
SECRET = ("KEY", "TOKEN", "PASSWORD")


def check_installed(names: Sequence[Name]) -> None:
    """Before anything starts. Errors: :class:`UsageError` for a tracker that is not installed."""
    for name in names:
        if find_spec(KINDS[name].module) is None:
            raise UsageError(
                f"report.to: {name} is not installed here, which is an extra",
                hint=f"pip install 'packtrain[{name}]', or leave it out of report.to",
            )


def begin(name: Name, about: About) -> Tracker:
    """Errors: whatever the tracker's library raises."""
    make: Callable[[About], Tracker] = import_module(f"packtrain.report.trackers.to_{name}").begin
    return make(about)


def secrets(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Values that no log and no warning may hold."""
    names = (each for kind in KINDS.values() for each in kind.variables)
    return tuple(
        value for each in names if each.rpartition("_")[2] in SECRET and (value := environment.get(each))
    )
