"""The proof that a resume is exact: what it compares, what it makes small, and that it can fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from whole_run import ROOT, Job, base, make_job, packtrain, wait_until  # noqa: F401

from packtrain.errors import DataError, GateError
from packtrain.run import resume_proof
from packtrain.run.resume_proof import STOPS, Story, Trial, Verdict, prove, read_story, small_scale
from packtrain.run.strike import Moment, clean_environment, moments, started, strike
from packtrain.rundir import EventWriter, RunDir
from packtrain.runfile import load

STORY = Story([2.0, 1.5, 1.25], [(0, 3.0), (3, 2.5)], "a" * 64)


class TestComparing:
    @pytest.mark.parametrize(
        ("other", "words"),
        [
            (replace(STORY), []),
            (replace(STORY, losses=[2.0, 1.5]), ["2 steps, not 3"]),
            (replace(STORY, losses=[2.0, 1.5, 1.2500001]), ["the loss of step 3 is 1.2500001, not 1.25"]),
            (replace(STORY, losses=[9.0, 8.0, 1.25]), ["the loss of step 1 is 9.0, not 2.0"]),
            (replace(STORY, evaluations=[(0, 3.0)]), ["other evaluations"]),
            (replace(STORY, evaluations=[(0, 3.0), (3, 2.6)]), ["other evaluations"]),
            (replace(STORY, weights="b" * 64), ["other weights"]),
        ],
    )
    def test_to_the_bit_on_a_cpu(self, other: Story, words: list[str]) -> None:
        assert STORY.differences(other) == words

    def test_to_a_tolerance_on_a_gpu(self) -> None:
        gpu = replace(STORY, device="cuda")
        near = replace(gpu, losses=[2.0, 1.5, 1.2501], weights="b" * 64)
        assert gpu.differences(near) == []
        assert gpu.differences(replace(near, losses=[2.0, 1.5, 1.26])) != []
        assert gpu.differences(replace(near, losses=[2.0, 1.5, float("nan")])) != []

    @pytest.mark.parametrize("steps", [[1, 3], [1, 2, 2, 3], [2, 3]])
    def test_a_story_with_a_gap_or_a_repetition_is_wrong(self, tmp_path: Path, steps: list[int]) -> None:
        run_dir = RunDir(tmp_path)
        with EventWriter(run_dir.events_file, 1) as events:
            for step in steps:
                events.write("step", step, loss=1.0)
        assert read_story(run_dir)[1] == [f"the steps told of are {steps}"]


class TestVerdict:
    TRIAL = Trial("training", "SIGKILL", -9, 2, 1.0)

    def test_all_equal(self) -> None:
        Verdict(STORY, 5.0, [self.TRIAL], asked=1).check()

    def test_one_that_differs(self) -> None:
        wrong = replace(self.TRIAL, moment="saving", problems=["other weights"])
        with pytest.raises(GateError, match=r"is not the same \(saving\)"):
            Verdict(STORY, 5.0, [self.TRIAL, wrong], asked=2).check()

    def test_one_that_was_not_tried(self) -> None:
        with pytest.raises(GateError, match="1 of 2 stops were tried in the time; all of them were equal"):
            Verdict(STORY, 5.0, [self.TRIAL], asked=2).check()

    def test_a_stop_that_came_too_late_is_none(self) -> None:
        late = replace(self.TRIAL, moment="publishing", exit_code=None, resumed_from=None)
        verdict = Verdict(STORY, 5.0, [self.TRIAL, late], asked=2)
        verdict.check()
        assert verdict.missed == ["publishing"]
        nothing = Verdict(STORY, 5.0, [late], asked=1)
        assert not nothing.proved
        with pytest.raises(GateError, match="before any of the stops: nothing is proved"):
            nothing.check()

    def test_every_phase_has_its_stop(self) -> None:
        assert [moment for moment, *_ in STOPS] == list(moments(middle=1, evaluation=1))
        assert {sent for _, sent, _ in STOPS} == {signal.SIGTERM, signal.SIGKILL}
        without = moments(middle=0, evaluation=None, steps=1)
        assert [moment for moment, *_ in STOPS if moment not in without] == ["evaluating"]


class TestSmall:
    def test_a_run_file_is_made_small_and_writes_nowhere_else(self, tmp_path: Path, base: Path) -> None:  # noqa: F811
        job = make_job(
            tmp_path / "job",
            base,
            data={"max_length": 4096},
            evaluate={"fail_if": {"loss_above": 0.1, "worse_than_base": True}, "prompts": ["Hello"]},
            output={"uri": "gs://real-bucket/final", "run_uri": "gs://real-bucket/state"},
        )
        small = small_scale(job.run_file, [], tmp_path / "here")
        assert (small.output.uri, small.output.run_uri) == (str(tmp_path / "here" / "published"), None)
        assert (small.data.max_length, small.train.max_steps, small.train.batch_tokens) == (512, 8, 2048)
        assert small.evaluate.prompts == []
        assert (small.evaluate.fail_if.loss_above, small.evaluate.fail_if.worse_than_base) == (None, False)
        assert small.adapter == load(job.run_file).config.adapter

    def test_a_run_without_validation_stays_one(self, tmp_path: Path, base: Path) -> None:  # noqa: F811
        job = make_job(tmp_path / "job", base, data={"validation": 0.0})
        assert small_scale(job.run_file, [], tmp_path).data.validation == 0.0

    def test_what_is_said_on_the_command_line_stays_but_for_outputs(self, tmp_path: Path, base: Path) -> None:  # noqa: F811
        job = make_job(tmp_path / "job", base)
        given = ["train.max_steps=3", "data.limit=9", "output.uri=gs://real-bucket/final", "train.seed=7"]
        small = small_scale(job.run_file, given, tmp_path)
        assert (small.train.max_steps, small.data.limit, small.train.seed) == (3, 9, 7)
        assert small.output.uri == str(tmp_path / "published")


#: Imported by every Python below: a resumed adapter is not quite what was saved.
WRONG = """
import sys
if any("packtrain" in word for word in sys.orig_argv):
    import packtrain.run.begin
    from packtrain.run import fit as module
    def restore(snapshot, *rest, old=None):
        old(snapshot, *rest)
        for weight in rest[0].parameters():
            weight.data.add_(1e-7)
    import functools
    module.checkpoint.restore = functools.partial(restore, old=module.checkpoint.restore)
"""
SOME = tuple(stop for stop in STOPS if stop[0] in ("training", "publishing"))


@pytest.mark.slow
class TestWhole:
    @pytest.fixture
    def job(self, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Job:  # noqa: F811
        monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
        (tmp_path / "temporary").mkdir()
        return make_job(tmp_path / "job", base, data={"max_length": 128}, adapter={"rank": 4, "dropout": 0.1})

    def nothing_is_left(self, job: Job) -> None:
        assert list(Path(tempfile.gettempdir()).iterdir()) == []
        assert sorted(path.name for path in job.folder.iterdir()) == ["run.yaml", "train.jsonl"]

    @pytest.mark.timeout(600)
    def test_it_is_proved_and_nothing_is_left(self, job: Job) -> None:
        told: list[str] = []
        verdict = prove(job.run_file, stops=SOME, on_progress=told.append)
        verdict.check()
        first, second = verdict.trials
        assert (first.moment, first.signal, first.exit_code, first.resumed_from) == (
            "training",
            "SIGKILL",
            -9,
            2,
        )
        assert (second.moment, second.resumed_from) == ("publishing", 8)
        assert second.exit_code in (75, None)
        assert told[0].startswith("undisturbed: ") and told[-1] == "2 of 2: SIGTERM, publishing"
        self.nothing_is_left(job)

    @pytest.mark.timeout(600)
    def test_a_resume_that_is_not_exact_is_found(
        self, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "wrong").mkdir()
        (tmp_path / "wrong" / "sitecustomize.py").write_text(WRONG)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'wrong'}{os.pathsep}{ROOT / 'src'}")
        verdict = prove(job.run_file, stops=SOME[:1])
        assert verdict.trials[0].problems[-1] == "other weights"
        with pytest.raises(GateError, match=r"is not the same \(training\)"):
            verdict.check()

    def test_a_run_that_fails_undisturbed_is_that_failure(self, job: Job) -> None:
        (job.folder / "train.jsonl").write_text("{}\n")
        with pytest.raises(DataError, match=r"train\.jsonl"):
            prove(job.run_file)
        self.nothing_is_left(job)

    def test_a_time_that_is_too_short(self, job: Job) -> None:
        ended = packtrain("verify-resume", str(job.run_file), "--time-limit", "1s")
        assert ended.code == 76
        assert "error: not even the undisturbed run ended within 1 s" in ended.err
        self.nothing_is_left(job)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_it_can_be_stopped_itself(self, job: Job, number: signal.Signals, tmp_path: Path) -> None:
        environment = {**os.environ, "TMPDIR": tempfile.gettempdir()}
        command = [sys.executable, "-m", "packtrain.cli.main", "verify-resume", str(job.run_file)]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            temporary = Path(tempfile.gettempdir())
            wait_until(lambda: any(temporary.glob("packtrain-verify-*/undisturbed/log")), process)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        assert (process.returncode, err.splitlines()[-1]) == (130, "interrupted")
        self.nothing_is_left(job)

    @pytest.mark.timeout(900)
    def test_the_command(self, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
        verdicts: list[Verdict] = []

        def proved(*arguments: Any, **settings: Any) -> Verdict:
            """Once: what follows is how it is told."""
            if not verdicts:
                verdicts.append(prove(*arguments, stops=SOME, **settings))
            return verdicts[0]

        monkeypatch.setattr(resume_proof, "prove", proved)
        ended = packtrain("verify-resume", str(job.run_file), "-s", "train.max_steps=5")
        assert ended.code == 0, ended.err
        head, first, second, last = ended.out.splitlines()
        assert head.split("  ")[0] == "stopped while"
        assert first.split() == ["training", "SIGKILL", "killed", "step", "2", "yes"]
        assert second.split()[-1] == "yes"
        assert last == "Resume is exact: 2 stops, the same losses and weights, to the bit."
        told = json.loads(
            packtrain("verify-resume", str(job.run_file), "-s", "train.max_steps=5", "--json").out
        )
        assert told["proved"] is True
        assert [trial["moment"] for trial in told["trials"]] == ["training", "publishing"]
        self.nothing_is_left(job)


class TestStriking:
    def test_a_run_that_ended_before_is_not_hit(self, tmp_path: Path) -> None:
        with started(["schema"], RunDir(tmp_path), tmp_path / "log", clean_environment()) as run:
            never = Moment("never", lambda run: False)
            until = time.monotonic() + 60
            assert strike(run, never, signal.SIGKILL, "leader", until) is False
            assert run.process.returncode == 0

    def test_a_moment_that_does_not_come(self, tmp_path: Path) -> None:
        never, past = Moment("never", lambda run: False), time.monotonic() - 1
        begun = started(["schema"], RunDir(tmp_path), tmp_path / "log", clean_environment())
        with pytest.raises(TimeoutError, match="never was not reached in time"), begun as run:
            strike(run, never, signal.SIGKILL, "leader", past)
        assert run.process.returncode is not None

    def test_the_environment_of_another_run_is_not_passed_on(self) -> None:
        given = {
            "PATH": "/bin",
            "PACKTRAIN_OWNER": "a",
            "PACKTRAIN_CACHE": "/c",
            "RANK": "1",
            "HF_TOKEN": "t",
        }
        assert clean_environment(given) == {
            "PATH": "/bin",
            "PACKTRAIN_CACHE": "/c",
            "HF_TOKEN": "t",
            "PACKTRAIN_LINGER": "0",
        }
