"""What manifests are made from: a run, pinned. The input of every function that renders."""

from __future__ import annotations

from dataclasses import dataclass

from packtrain.config import RunConfig
from packtrain.plan.machines import Machine, machine
from packtrain.run.mirror import default_run_uri


@dataclass(frozen=True)
class Launch:
    config: RunConfig
    """Resolved: the revisions are pinned and the output is in a bucket."""
    run_yaml: str
    """The same as a run file: what the pod reads."""
    run_id: str
    image: str
    """Reference of the trainer's image, with its digest where it is known."""
    config_hash: str
    planned: str = ""
    """What was planned, for the run to repeat (:mod:`packtrain.run.planned`); empty where nothing was."""

    @property
    def machine(self) -> Machine:
        return machine(self.config.cluster.machine)

    @property
    def output_uri(self) -> str:
        """Where the adapter goes, in a bucket."""
        assert self.config.output.uri is not None
        return self.config.output.uri

    @property
    def run_uri(self) -> str:
        """Where checkpoints, events and logs go, in a bucket."""
        name, uri = self.config.name, self.config.output.run_uri
        found = uri or default_run_uri(self.output_uri, name, self.run_id)
        assert found is not None
        return found
