"""A run at Weights & Biases, under our own id: a resumed attempt goes on in the same run."""

from __future__ import annotations

import os
from collections.abc import Sequence

from packtrain.report.trackers.tracker import PROJECT, About, Ending, Row

#: Steps are an axis of our own: wandb's refuses a step that was there before, which a resume does again.
STEP = "step"


#: What it would find out or print by itself; each where this version has it.
SETTINGS = {
    "console": "off",
    "silent": True,
    "host": "",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


class WandbRun:
    def __init__(self, about: About) -> None:
        # Silent before anything else: else it asks a terminal for a key. And what its makers count of its
        # users is not ours to send.
        os.environ |= {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
        import wandb

        known = wandb.Settings.model_fields
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=about.run_id.lower(),
            name=about.name,
            resume="allow",
            config=dict(about.settings),
            dir=about.folder,
            settings=wandb.Settings(**{key: value for key, value in SETTINGS.items() if key in known}),
        )
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)

    @property
    def link(self) -> str | None:
        url: str | None = None if self._run.offline else self._run.url
        return url

    def log(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._run.log({STEP: row.step, **row.values})

    def finish(self, ending: Ending) -> None:
        self._run.summary.update({**ending.metrics, "outcome": ending.outcome})
        if ending.output is not None:
            self._run.summary["output"] = ending.output
        if ending.outcome == "preempted":
            self._run.mark_preempting()
        self._run.finish(exit_code=ending.exit_code)


def begin(about: About) -> WandbRun:
    return WandbRun(about)
