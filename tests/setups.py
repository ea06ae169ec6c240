"""What the tests of the setup share: a run file's site, options, a reporter that keeps what it hears."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packtrain.config import RunConfig
from packtrain.gcp.carry_out import Patience, Planned, carry_out, obstacle, plan
from packtrain.gcp.commands import Command, Runner
from packtrain.gcp.destroy import Undoing, take_back, undo_plan, undo_steps
from packtrain.gcp.journal import Journal
from packtrain.gcp.setup import Options, steps
from packtrain.gcp.site import Site, site_of
from packtrain.gcp.steps import Seen, Step

EVERYTHING = Options(create_cluster=True, create_pool=True, has_token=True)
CLUSTER: dict[str, Any] = {
    "project": "my-project",
    "location": "us-central1",
    "name": "trainer",
    "namespace": "training",
    "service_account": "llama3-finetuner-ksa",
}


def config(output: str = "gs://my-bucket/final_model", **cluster: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "llama3-8b-dolly",
            "model": {"source": "meta-llama/Meta-Llama-3-8B-Instruct"},
            "data": {"train": "databricks/databricks-dolly-15k"},
            "output": {"uri": output},
            "cluster": CLUSTER | cluster,
        }
    )


def site(**cluster: Any) -> Site:
    return site_of(config(**cluster))


@dataclass
class Heard:
    """A reporter of nothing to nobody, that can be asked."""

    made: list[tuple[str, Command]] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)

    def looking(self, step: Step) -> None:
        pass

    def making(self, step: Step, command: Command) -> None:
        self.made.append((step.key, command))

    def waiting(self, step: Step, why: str) -> None:
        self.waits.append(why)

    def done(self, step: Step, seen: Seen) -> None:
        pass


@dataclass
class Clock:
    """Time passes by sleeping alone."""

    now: float = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def patience(self, wait: float = 300.0) -> Patience:
        return Patience(wait, self.sleep, lambda: self.now)


@dataclass
class Setup:
    """One laptop: its journal, and what its setups and destroys do to a cloud."""

    site: Site
    runner: Runner
    folder: Path
    options: Options = EVERYTHING
    heard: Heard = field(default_factory=Heard)
    clock: Clock = field(default_factory=Clock)

    @property
    def journal(self) -> Journal:
        return Journal(self.folder / "journal.json")

    def plan(self) -> list[Planned]:
        return plan(steps(self.site, self.options), self.runner, self.journal, self.heard)

    def run(self) -> list[Planned]:
        """As ``packtrain cloud setup --yes``."""
        planned = self.plan()
        stop = obstacle(planned)
        if stop is not None:
            raise stop
        return carry_out(planned, self.runner, self.journal, self.heard, self.clock.patience())

    def states(self) -> dict[str, str]:
        return {each.step.key: each.seen.state for each in self.plan()}

    def undo_plan(self) -> list[Undoing]:
        wanted = undo_steps(self.site, self.options)
        return undo_plan(wanted, self.runner, self.journal, self.heard)

    def destroy(self) -> None:
        take_back(self.undo_plan(), self.site, self.runner, self.journal, self.heard)
