"""The proof that a run can be stopped at any moment and ends the same: ``packtrain verify-resume``.

The user's own run file, made small, trains once undisturbed; then once for each stop: a real process
gets a real signal at a certain moment, and the same command goes on to the end. What comes out is
compared to the bit: every loss, and the SHA-256 of the weights.
"""

from __future__ import annotations

import hashlib
import json
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from packtrain.config import RunConfig
from packtrain.errors import BY_EXIT_CODE, BugError, GateError, PacktrainError, PreemptedError
from packtrain.run.strike import Moment, Target, Watched, clean_environment, moments, started, strike
from packtrain.rundir import RunDir, history
from packtrain.runfile import dump, load
from packtrain.train.progress import duration

STEPS, EVALUATE_EVERY, SAVE_EVERY = 8, 4, 2
ROWS, LENGTH = 48, 512
#: Runs that a stop is given, for one that may end before the signal comes.
TRIES = 3
#: On a GPU whose kernels add up in any order, losses of two equal runs differ by about so much.
GPU_TOLERANCE = 1e-3

#: What happens to the run, one at a time: the moment, the signal, and who gets it.
STOPS: tuple[tuple[str, signal.Signals, Target], ...] = (
    ("starting", signal.SIGTERM, "leader"),
    ("reading the data", signal.SIGKILL, "everything"),
    ("loading the base", signal.SIGTERM, "leader"),
    ("first step", signal.SIGKILL, "everything"),
    ("accumulating", signal.SIGTERM, "leader"),
    ("training", signal.SIGKILL, "rank"),
    ("evaluating", signal.SIGTERM, "leader"),
    ("saving", signal.SIGKILL, "everything"),
    ("writing the adapter", signal.SIGKILL, "everything"),
    ("publishing", signal.SIGTERM, "leader"),
)


@dataclass(frozen=True)
class Story:
    """What a finished run came to; two that are equal are the same training."""

    losses: list[float]
    evaluations: list[tuple[int, float]]
    weights: str
    """SHA-256 over the weights files of the adapter."""
    device: str = "cpu"

    def differences(self, other: Story) -> list[str]:
        """In what ``other`` is another, in words; [] for the same to the bit, on a GPU to a tolerance."""
        exact = self.device == "cpu"
        found = []
        if len(self.losses) != len(other.losses):
            found.append(f"{len(other.losses)} steps, not {len(self.losses)}")
        for step, (ours, theirs) in enumerate(zip(self.losses, other.losses, strict=False), start=1):
            if not _same(ours, theirs, exact):
                found.append(f"the loss of step {step} is {theirs!r}, not {ours!r}")
                break
        evaluations = zip(self.evaluations, other.evaluations, strict=False)
        if [step for step, _ in self.evaluations] != [step for step, _ in other.evaluations] or not all(
            _same(ours, theirs, exact) for (_, ours), (_, theirs) in evaluations
        ):
            found.append("other evaluations")
        if exact and self.weights != other.weights:
            found.append("other weights")
        return found


def _same(ours: float, theirs: float, exact: bool) -> bool:
    return ours == theirs if exact else abs(ours - theirs) <= GPU_TOLERANCE * abs(ours)


def read_story(run_dir: RunDir) -> tuple[Story, list[str]]:
    """The story of a finished run, and what is wrong with it in itself: steps that are missing or twice."""
    events = history(run_dir.events_file)
    steps = [event.step for event in events if event.kind == "step"]
    wrong = [] if steps == list(range(1, len(steps) + 1)) else [f"the steps told of are {steps}"]
    digest = hashlib.sha256()
    for path in sorted(run_dir.adapter.glob("*.safetensors")):
        digest.update(path.read_bytes())
    story = Story(
        [event.fields["loss"] for event in events if event.kind == "step"],
        [(event.step, event.fields["loss"]) for event in events if event.kind == "eval"],
        digest.hexdigest(),
        next((event.fields["device"] for event in events if "device" in event.fields), "cpu"),
    )
    return story, wrong


@dataclass(frozen=True)
class Trial:
    """One stop, and how the run ended after it."""

    moment: str
    signal: str
    exit_code: int | None
    """Of the run that was stopped: minus the signal that it died of; None where the end came first."""
    resumed_from: int | None
    """The step after which it went on; None where nothing was saved yet."""
    seconds: float
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    undisturbed: Story
    seconds: float
    """What the undisturbed run took."""
    trials: list[Trial]
    asked: int
    """How many stops there were to be."""

    @property
    def missed(self) -> list[str]:
        """The moments of stops that came too late, every time: the run had ended."""
        return [trial.moment for trial in self.trials if trial.exit_code is None]

    @property
    def proved(self) -> bool:
        complete = len(self.trials) == self.asked and len(self.missed) < self.asked
        return complete and not any(trial.problems for trial in self.trials)

    def to_json(self) -> dict[str, Any]:
        return {"proved": self.proved, **asdict(self)}

    def check(self) -> None:
        """Raise :class:`GateError` unless everything was tried, and was equal."""
        wrong = [trial.moment for trial in self.trials if trial.problems]
        if wrong:
            raise GateError(
                f"a run that is stopped and resumed is not the same ({', '.join(wrong)})",
                hint="the table says how; please report it with the output of packtrain version -v",
            )
        if self.missed and len(self.missed) == self.asked:
            raise GateError(
                "the run had ended before any of the stops: nothing is proved",
                hint="let it be longer, such as -s train.max_steps=20",
            )
        if not self.proved:
            raise GateError(
                f"{len(self.trials)} of {self.asked} stops were tried in the time; all of them were equal",
                hint="allow more with --time-limit, or take a smaller model.source",
            )


def small_scale(run: Path, overrides: Sequence[str], folder: Path) -> RunConfig:
    """The run file, a few steps long, with all that it writes below ``folder``.

    Steps accumulate over several forward passes, and the epochs end in between. Keys that
    ``overrides`` names stay as they are there, but for the outputs.
    """
    config = load(run, overrides).config
    rows = min(ROWS, config.data.limit or ROWS)
    length = min(LENGTH, config.data.max_length)
    small: dict[str, Any] = {
        "data.limit": rows,
        "data.max_length": length,
        "data.too_long": "truncate",
        "train.max_steps": STEPS,
        "train.epochs": STEPS,
        "train.batch_tokens": 4 * length,
        "train.micro_batch": 1,
        "checkpoint.every": SAVE_EVERY,
        "evaluate.every": EVALUATE_EVERY,
        "evaluate.prompts": [],
        "evaluate.fail_if.loss_above": None,
        "evaluate.fail_if.worse_than_base": False,
        "evaluate.fail_if.answers_below": None,
    }
    if isinstance(config.data.validation, float) and config.data.validation > 0.0:
        small["data.validation"] = 0.1
    if config.data.streaming:  # which counts no epochs
        del small["train.epochs"]
    own = {override.partition("=")[0].strip() for override in overrides}
    chosen = {key: value for key, value in small.items() if key not in own}
    chosen |= {"output.uri": str(folder / "published"), "output.run_uri": None}
    return load(run, [*overrides, *(f"{key}={json.dumps(value)}" for key, value in chosen.items())]).config


class Proof:
    """Runs the trials of one run file, below ``folder``."""

    def __init__(self, config: RunConfig, folder: Path, processes: int | None, until: float) -> None:
        self.folder, self.until = folder, until
        self.config = config
        self.options = [] if processes is None else ["--processes", str(processes)]

    def undisturbed(self) -> tuple[Story, float]:
        """Errors: those of the run, as its exit code says; :class:`GateError` where time is over."""
        place = self._place("undisturbed")
        begun = time.monotonic()
        with self._started(place) as run:
            code = run.wait(self.until)
        if code:
            said = [line for line in run.lines() if line.startswith("error: ")] or run.lines()[-1:]
            kind = BY_EXIT_CODE.get(code, BugError)
            raise kind("\n".join(line.removeprefix("error: ") for line in said) or f"it ended with {code}")
        story, wrong = read_story(RunDir(place / "run"))
        if wrong:
            raise BugError("; ".join(wrong))
        return story, time.monotonic() - begun

    def trial(self, number: int, moment: Moment, sent: signal.Signals, target: Target, whole: Story) -> Trial:
        """Errors: :class:`TimeoutError` where time is over."""
        begun = time.monotonic()
        for attempt in range(TRIES):
            place = self._place(f"stop-{number}-{attempt}")
            with self._started(place) as run:
                struck = strike(run, moment, sent, target, self.until)
                code = run.wait(self.until)
            if struck:
                break
        problems = _wrong_end(code, sent, run) if struck else _wrong_end(code, None, run)
        with self._started(place) as run:
            resumed = run.wait(self.until)
        if resumed:
            problems.append(f"the same command then ended with {resumed}: {''.join(run.lines()[-1:])}")
        else:
            story, wrong = read_story(run.run_dir)
            problems += wrong + whole.differences(story)
        starts = [event for event in run.events() if event.kind == "start"]
        resumed_from = starts[-1].fields.get("resumed_from") if struck and starts else None
        seconds = round(time.monotonic() - begun, 1)
        return Trial(moment.name, sent.name, code if struck else None, resumed_from, seconds, problems)

    def _place(self, name: str) -> Path:
        place = self.folder / name
        place.mkdir()
        output = self.config.output.model_copy(update={"uri": str(place / "published")})
        (place / "run.yaml").write_text(dump(self.config.model_copy(update={"output": output})))
        return place

    def _started(self, place: Path) -> AbstractContextManager[Watched]:
        run_dir = RunDir(place / "run")
        arguments = ["train", str(place / "run.yaml"), "--run-dir", str(run_dir.path), *self.options]
        return started(arguments, run_dir, place / "log", clean_environment())


def _wrong_end(code: int, sent: signal.Signals | None, run: Watched) -> list[str]:
    """A SIGTERM is answered with 75 (or came so late that all was done); a SIGKILL by nothing good.

    What nothing was sent to has to end well.
    """
    said = "".join(run.lines()[-1:])
    if any(line.startswith("Traceback") for line in run.lines()):
        return [f"a stack trace: {said}"]
    if sent == signal.SIGTERM and code not in (PreemptedError.exit_code, 0):
        return [f"SIGTERM ended it with {code}: {said}"]
    if sent is None and code:
        return [f"it ended with {code} by itself: {said}"]
    return []


def prove(
    run: Path,
    overrides: Sequence[str] = (),
    *,
    processes: int | None = None,
    seconds: float = 1800.0,
    stops: Sequence[tuple[str, signal.Signals, Target]] = STOPS,
    on_progress: Callable[[str], None] = lambda line: None,
) -> Verdict:
    """Try every one of ``stops``, for at most ``seconds``; nothing is left behind.

    Errors: those of the run file, and of the undisturbed run, by its exit code.
    """
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="packtrain-verify-", ignore_cleanup_errors=True) as name:
        config = small_scale(run, overrides, Path(name))
        proof = Proof(config, Path(name), processes, until)
        on_progress("undisturbed: once from start to end")
        try:
            whole, took = proof.undisturbed()
        except TimeoutError:
            raise _too_slow(seconds) from None
        steps, every = len(whole.losses), config.evaluate.every
        middle = min(SAVE_EVERY + 1, max(0, steps - 2))
        evaluation = every if isinstance(every, int) and every < steps else steps
        when = moments(
            middle=middle,
            evaluation=evaluation if whole.evaluations else None,
            step_seconds=_step_seconds(proof, steps),
            steps=steps,
        )
        stops = [stop for stop in stops if stop[0] in when]
        estimate, left = len(stops) * 1.8 * took, until - time.monotonic()
        too_long = f", and {duration(left)} are left" if estimate > left else ""
        on_progress(
            f"undisturbed: {steps} steps in {duration(took)}; "
            f"{len(stops)} stops take about {duration(estimate)}{too_long}"
        )
        trials: list[Trial] = []
        with suppress(TimeoutError):
            for number, (moment, sent, target) in enumerate(stops, start=1):
                on_progress(f"{number} of {len(stops)}: {sent.name}, {moment}")
                trials.append(proof.trial(number, when[moment], sent, target, whole))
        return Verdict(whole, round(took, 1), trials, len(stops))


def _too_slow(seconds: float) -> PacktrainError:
    return GateError(
        f"not even the undisturbed run ended within {seconds:.0f} s",
        hint="allow more with --time-limit, or take a smaller model.source",
    )


def _step_seconds(proof: Proof, steps: int) -> float:
    """Mean of the undisturbed run's steps; measured by their events, without the first."""
    events = history(RunDir(proof.folder / "undisturbed" / "run").events_file)
    took: list[float] = [
        event.fields["tokens"] / event.fields["tokens_per_second"] for event in events if event.kind == "step"
    ]
    return min(60.0, sum(took[1:]) / max(1, steps - 1))
