"""``packtrain eval`` on a run's folder, a run file and an adapter alone: the run's own numbers, and more."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tiny import make_tiny_base
from whole_run import ROOT, Job, base, facts, make_job, packtrain, write_rows

from packtrain.evaluate.tasks import check_tasks

__all__ = ["base"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Job:
    base = make_tiny_base(tmp_path_factory.mktemp("base"))
    prompts = ["Who?", {"prompt": "What is fact 3?", "expect": "no such answer"}]
    job = make_job(tmp_path_factory.mktemp("job"), base, evaluate={"prompts": prompts})
    job.done()
    return job


def evaluated(*arguments: str) -> dict[str, Any]:
    ended = packtrain("eval", *arguments, "--json")
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found


def test_the_runs_own_numbers(done: Job) -> None:
    """Measured by plain peft, a row a sequence, as against packed rows in training."""
    found, metrics = evaluated(str(done.run_dir.path)), done.receipt()["metrics"]
    assert found["adapter"]["loss"] == pytest.approx(metrics["loss"], rel=1e-4)
    assert found["base"]["loss"] == pytest.approx(metrics["base_loss"], rel=1e-4)
    assert found["adapter"]["loss"] < found["base"]["loss"]
    assert 0 <= found["adapter"]["accuracy"] <= 1
    assert found["data"] == "the run's validation rows"
    asked = metrics["answers"]["asked"]
    assert [each["right_after"] for each in found["prompts"]].count(None) == 2 - asked


def test_other_rows_and_answers(done: Job, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "other.jsonl", facts(7, 100))
    options = ("--data", str(rows), "--generate", "3", "--max-new-tokens", "5", "--limit", "5")
    found = evaluated(str(done.run_dir.adapter), *options)
    assert (found["data"], found["rows"]) == (str(rows), 5)
    for side in ("base", "adapter"):
        scores = found[side]["answers"]
        assert scores["answers"] == 3
        assert scores["reference_words"] == 4.0
        assert 0 <= scores["rouge_l"] <= 1


def test_a_table_for_people(done: Job) -> None:
    ended = packtrain("eval", str(done.run_dir.path), "--generate", "1", "--max-new-tokens", "2")
    assert ended.code == 0, ended.err
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert lines[0].startswith("the run's validation rows: 4 rows, ")
    assert lines[1] == "base adapter"
    for begin in (
        "loss (nats a token) ",
        "perplexity ",
        "token accuracy ",
        "exact match ",
        "ROUGE-L ",
        "words ",
    ):
        assert any(line.startswith(begin) for line in lines), begin
    assert "right before: 0 of 1 (0%), after: 0 of 1 (0%)" in lines


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["{adapter}"], 78, "nothing says which rows it was held against"),
        (["{adapter}", "--data", "nowhere.jsonl"], 78, "nowhere.jsonl"),
        (["{adapter}/nowhere"], 78, "is not there"),
        (["{adapter}", "--limit", "0"], 2, "--limit"),
    ],
)
def test_what_cannot_be_measured(
    done: Job, tmp_path: Path, arguments: list[str], code: int, sentence: str
) -> None:
    alone = shutil.copytree(done.run_dir.adapter, tmp_path / "alone")
    ended = packtrain("eval", *(each.format(adapter=alone) for each in arguments))
    assert ended.code == code, ended.err
    assert sentence in ended.err


def test_a_run_without_validation(done: Job, tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", make_tiny_base(tmp_path / "base"), data={"validation": 0.0})
    job.done()
    ended = packtrain("eval", str(job.run_dir.path))
    assert (ended.code, "no rows for validation" in ended.err) == (78, True)
    del done


def test_an_adapter_of_qlora_is_measured_as_it_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra qlora")
    job = make_job(tmp_path / "job", make_tiny_base(tmp_path / "base"), adapter={"kind": "qlora"})
    job.done()
    run, metrics = str(job.run_dir.path), job.receipt()["metrics"]
    as_trained = evaluated(run)
    for side, metric in (("adapter", "loss"), ("base", "base_loss")):
        assert as_trained[side]["loss"] == pytest.approx(metrics[metric], rel=1e-4)
    full = evaluated(run, "--base-in-full")
    assert full["base"]["loss"] != pytest.approx(metrics["base_loss"], rel=1e-4)
    ended = packtrain("eval", run)
    assert "the base stands in 4 bits, as the adapter was trained on it" in ended.err

    # Without its receipt nothing says how it was trained.
    rows = ("--data", str(job.folder / "train.jsonl"), "--limit", "2")
    alone = shutil.copytree(job.run_dir.adapter, tmp_path / "alone")
    (alone / "receipt.json").unlink(missing_ok=True)
    assert evaluated(str(alone), *rows) == evaluated(str(alone), *rows, "--base-in-full")
    assert evaluated(str(alone), *rows, "--base-in-4-bits") == evaluated(run, *rows)

    monkeypatch.setattr("packtrain.evaluate.chat.find_spec", lambda _: None)
    ended = packtrain("eval", run)
    assert ended.code == 0
    assert "trained on a base in 4 bits, which needs packtrain[qlora]; on the plain base" in ended.err
    refused = packtrain("eval", run, "--base-in-4-bits")
    assert (refused.code, "pip install 'packtrain[qlora]'" in refused.err) == (78, True)


def test_a_whole_model_has_no_base_in_4_bits(base: Path) -> None:
    refused = packtrain("eval", str(base), "--data", "x.jsonl", "--base-in-4-bits")
    assert refused.code == 2
    assert "a whole model stands on no base in 4 bits" in refused.err


def test_tasks_without_lm_eval(monkeypatch: pytest.MonkeyPatch, done: Job) -> None:
    monkeypatch.setattr("packtrain.evaluate.tasks.find_spec", lambda _: None)
    check_tasks([])
    ended = packtrain("eval", str(done.run_dir.path), "--tasks", "arc_easy")
    assert ended.code == 78
    assert "pip install 'packtrain[eval]'" in ended.err


TASK = """task: tiny_facts
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: ["yes", "no"]
metric_list:
  - metric: acc
"""


TWICE = """
import contextlib, io, json, sys
from packtrain.cli.main import main
found = []
for task in sys.argv[2:]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["eval", sys.argv[1], "--tasks", task, "--json"])
    found.append([code, out.getvalue(), err.getvalue()])
assert "lm_eval" in sys.modules
print(json.dumps(found))
"""


def lm_eval_folder() -> list[str]:
    """Where lm-eval is, if it is not installed: what `make test` has put there."""
    folder = ROOT / ".lm-eval"
    if (folder / "lm_eval").is_dir():
        return [str(folder)]
    if find_spec("lm_eval") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("lm-eval is not there: `make test` installs it into .lm-eval")
        pytest.skip("needs lm-eval: pip install 'packtrain[eval]', or `make test`")
    return []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_task_of_lm_eval(done: Job, tmp_path: Path) -> None:
    """A task that lies in a file, with its data beside it: nothing is fetched."""
    rows = [{"question": f"Is {i} even?", "answer": "yes" if i % 2 == 0 else "no"} for i in range(6)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    task = tmp_path / "tiny_facts.yaml"
    task.write_text(TASK.format(data=data))
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_DATASETS_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), *lm_eval_folder()])
    ended = subprocess.run(
        [sys.executable, "-c", TWICE, str(done.run_dir.adapter), str(task), "no_such_task"],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    (code, out, err), (other, _, why) = json.loads(ended.stdout.splitlines()[-1])
    assert code == 0, err
    for side in ("base", "adapter"):
        assert 0 <= json.loads(out)["tasks"]["tiny_facts"][side]["acc"] <= 1
    assert (other, "no_such_task is no task of lm-eval" in why) == (2, True)
