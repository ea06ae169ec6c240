"""A run at MLflow: by its client alone, whose calls name the run, so that no global state is set.

A server gives a run its id; ours is a tag, by which a resumed attempt finds it again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from packtrain.report.trackers.tracker import PROJECT, About, Ending, Row

RUN_ID = "packtrain.run_id"
OUTPUT = "packtrain.output"
#: The server's limits for one call.
MOST_METRICS, MOST_PARAMS = 1000, 100
STATUS = {"done": "FINISHED", "preempted": "KILLED"}


class MlflowRun:
    def __init__(self, about: About) -> None:
        # What its makers count of its users is not ours to send.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric, self._last = Metric, 0
        self._client = MlflowClient()
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT)
        found = self._client.search_runs([experiment], f"tags.`{RUN_ID}` = '{about.run_id}'", max_results=1)
        if found:
            self._run = found[0]
            self._client.update_run(self._run.info.run_id, status="RUNNING")
        else:
            self._run = self._client.create_run(
                experiment, run_name=about.name, tags={RUN_ID: about.run_id, "mlflow.source.name": PROJECT}
            )
        # A parameter never changes; what a later attempt has otherwise (another machine) stays as it was.
        known = self._run.data.params
        fresh = [Param(key, str(value)) for key, value in about.settings.items() if key not in known]
        for at in range(0, len(fresh), MOST_PARAMS):
            self._client.log_batch(self._id, params=fresh[at : at + MOST_PARAMS])

    @property
    def _id(self) -> str:
        return str(self._run.info.run_id)

    @property
    def link(self) -> str | None:
        from mlflow import get_tracking_uri

        place = get_tracking_uri()
        if not place.startswith(("http://", "https://")) or "@" in place:
            return None
        return f"{place.rstrip('/')}/#/experiments/{self._run.info.experiment_id}/runs/{self._id}"

    def log(self, rows: Sequence[Row]) -> None:
        self._last = max(self._last, *(row.step for row in rows))
        metrics: list[Any] = [
            self._metric(tag, value, int(row.time * 1000), row.step)
            for row in rows
            for tag, value in row.values.items()
        ]
        for at in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._id, metrics=metrics[at : at + MOST_METRICS])

    def finish(self, ending: Ending) -> None:
        if ending.metrics:
            self.log([Row(time.time(), self._last, ending.metrics)])
        if ending.output is not None:
            self._client.set_tag(self._id, OUTPUT, ending.output)
        self._client.set_terminated(self._id, STATUS.get(ending.outcome, "FAILED"))

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found is not None else self._client.create_experiment(name))


def begin(about: About) -> MlflowRun:
    return MlflowRun(about)
