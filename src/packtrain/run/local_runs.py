"""The runs of this machine, as ``packtrain status`` lists them beside those of the clusters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packtrain.errors import PacktrainError
from packtrain.report.story import Story, gather
from packtrain.rundir import RunDir, ends_of

#: Where ``packtrain train`` puts them, unless it is told another folder.
RUNS = Path("runs")


@dataclass(frozen=True)
class LocalRun:
    name: str
    run_id: str
    folder: Path
    story: Story
    """Of its ends: how it stands, and not all that happened."""

    @property
    def place(self) -> str:
        return str(self.folder)

    @property
    def sentence(self) -> str:
        story = self.story
        of = f"step {story.step}" + (f" of {story.steps}" if story.steps else "")
        match story.outcome:
            case "not begun":
                return "not begun"
            case "done":
                return "succeeded: done and verified"
            case "no last word":
                told = story.last.time if story.last else "never"
                return f"at work, or killed: {of}; its last word is of {told}"
            case outcome:
                message = (story.end.fields.get("message") if story.end else None) or "nothing more was said"
                return f"{outcome}: {message}"

    def to_json(self) -> dict[str, Any]:
        """With the keys that a run in a cluster has."""
        end = self.story.end
        return {
            "name": self.name,
            "run_id": self.run_id,
            "namespace": None,
            "cluster": None,
            "status": self.sentence,
            "phase": None,
            "exit_code": end.fields.get("exit_code") if end else None,
            "pods": [],
            "run_uri": str(self.folder),
            "progress": {
                "step": self.story.step,
                "steps": self.story.steps,
                "loss": self.story.curves["loss"].last,
                "checkpoint": self.story.saved_step,
                "last_event": self.story.last.time if self.story.last else None,
            },
        }


def local_runs(folder: Path = RUNS) -> list[LocalRun]:
    """Those in ``folder``, by name; what is no run is passed over."""
    found = []
    for path in sorted(folder.glob("*/run.json")):
        run_dir = RunDir(path.parent)
        try:
            who = run_dir.identity()
        except PacktrainError:
            continue
        if who is not None:
            found.append(LocalRun(who.name, who.run_id, run_dir.path, gather(ends_of(run_dir.events_file))))
    return found
