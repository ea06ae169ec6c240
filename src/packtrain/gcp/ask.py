"""Questions to gcloud and kubectl: an answer, None for what is not there, or one of our errors."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from packtrain.errors import PacktrainError, UnavailableError
from packtrain.gcp.commands import ASKING, Command, Finished, Runner, spoken
from packtrain.gcp.errors import SILENT, explain, is_absent, is_api_off


def checked(runner: Runner, command: Command, *, timeout: float = ASKING) -> str:
    """What the command writes; one of our errors where it ends badly."""
    finished = runner.run(command, timeout=timeout)
    if not finished.ok:
        raise explain(command, finished)
    return finished.stdout


def ask(runner: Runner, command: Command) -> Any:
    """The JSON that the command prints; None where what it asks for is not there.

    Where the service itself is not enabled in the project, nothing of it is there either.
    """
    finished = runner.run(command)
    if not finished.ok:
        if is_absent(finished) or is_api_off(finished):
            return None
        raise explain(command, finished)
    if not finished.stdout.strip():
        return None
    try:
        return json.loads(finished.stdout)
    except ValueError:
        raise UnavailableError(
            f"{spoken(command)} answers with something that is no JSON",
            hint=f"run it by hand: {command.shown()}",
        ) from None


_CLUSTER = (("gcloud", "container", "clusters", "describe"), ("gcloud", "container", "node-pools", "list"))


@dataclass
class Remembering:
    """A runner that asks each question once: the steps of a plan look at the same things.

    Nor is a cluster that does not answer asked again: each time would take as long as its time limit.
    """

    runner: Runner
    answers: dict[Command, Finished] = field(default_factory=dict)
    silent: PacktrainError | None = None

    def run(self, command: Command, *, timeout: float = ASKING) -> Finished:
        into_cluster = command.argv[0] == "kubectl"
        if into_cluster and self.silent is not None:
            raise self.silent
        if command not in self.answers:
            try:
                self.answers[command] = self.runner.run(command, timeout=timeout)
            except UnavailableError as error:
                self.silent = error if into_cluster else None
                raise
        answer = self.answers[command]
        if into_cluster and not answer.ok:
            told = explain(command, answer)
            self.silent = told if SILENT in str(told) else None
        return answer

    def forget(self, *, cluster: bool) -> None:
        """After a change: all answers but the project's, and the cluster's unless that may have changed."""
        self.silent = None
        kept = (("gcloud", "projects", "describe"), *(() if cluster else _CLUSTER))
        self.answers = {
            command: answer
            for command, answer in self.answers.items()
            if any(command.argv[: len(words)] == words for words in kept)
        }
