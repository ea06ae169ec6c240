"""packtrain in a real kernel: what is in a cell's output, and whether the kernel is as it was."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from whole_run import ROOT, make_job

RUN = """
import packtrain
run = packtrain.load({run!r})
trained = packtrain.train(run, run_dir={folder!r})
trained
"""
REFUSED = "packtrain.train(run, {{'train.epochs': 2}}, run_dir={folder!r})"
#: As the notebook's button: a SIGINT to the kernel.
INTERRUPTED = """
import os, pathlib, signal, threading, time
def press():
    events = pathlib.Path({folder!r}) / "events.jsonl"
    while not (events.exists() and '"kind":"step"' in events.read_text().replace(" ", "")):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=press).start()
packtrain.train(run, ["train.epochs=2000", "evaluate.every=1000"], run_dir={folder!r})
"""
AFTERWARDS = """
threading.Thread(target=lambda: (time.sleep(0.2), os.kill(os.getpid(), signal.SIGINT))).start()
time.sleep(30)
"""
ANSWER = """
adapter = trained.load()
answers = adapter.generate(["What is fact 1?"] * 2, max_new_tokens=4)
print(len(answers))
packtrain.plan(run, {{"plan.gpu": "l4", "plan.gpus": 1}})
"""
BUG = "from packtrain.errors import BugError\nraise BugError('it is wrong')"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Any:
    """All cells, run in order; those that fail go on."""
    folder = tmp_path_factory.mktemp("notebook")
    asked = [{"prompt": "What is <b>fact</b> 1?", "expect": "7"}]
    job = make_job(folder / "job", base, evaluate={"prompts": asked})
    places = {"run": str(job.run_file), "folder": str(folder / "run")}
    cells = [
        RUN.format(**places),
        REFUSED.format(**places),
        INTERRUPTED.format(folder=str(folder / "stopped")),
        AFTERWARDS,
        ANSWER.format(),
        BUG,
    ]
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each.strip()) for each in cells])
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
            patch.setenv(name, str(folder / name.lower()))
        patch.setenv("PYTHONPATH", str(ROOT / "src"))
        client = nbclient.NotebookClient(made, timeout=120, allow_errors=True, kernel_name="python3")
        asyncio.run(client.async_execute(cwd=str(folder)))
    return made


def outputs(notebook: Any, cell: int, kind: str) -> list[Any]:
    return [each for each in notebook.cells[cell].outputs if each.output_type == kind]


def shown(output: Any) -> str:
    return str(output["data"]["text/plain"])


@pytest.mark.slow
def test_a_run_is_one_bar_and_a_table(notebook: Any) -> None:
    cell = notebook.cells[0]
    assert [each.output_type for each in cell.outputs] == ["display_data", "execute_result"], cell.outputs
    lines = shown(cell.outputs[0]).splitlines()
    assert len(lines) == len(set(lines)) <= 8
    assert [line for line in lines if line.startswith("step 6/6  loss ")]
    assert re.match(r"step 6: checkpoint saved in", lines[-1])
    html = cell.outputs[0]["data"]["text/html"]
    assert html.count("<div") == len(lines)
    assert "<progress" not in html  # it is done
    result = cell.outputs[1]["data"]
    assert result["text/plain"].startswith("Trained(name='tiny'")
    assert "What is &lt;b&gt;fact&lt;/b&gt; 1?" in result["text/html"]


@pytest.mark.slow
def test_a_mistake_is_a_sentence(notebook: Any) -> None:
    (error,) = notebook.cells[1].outputs
    assert error.ename == "ConfigError"
    assert len(error.traceback) == 2
    assert error.traceback[0].endswith("train.epochs: 3.0 -> 2.0")
    assert error.traceback[1].startswith("hint: give the run another name")


@pytest.mark.slow
def test_the_stop_button_saves_and_the_kernel_goes_on(notebook: Any) -> None:
    bar, error = notebook.cells[2].outputs
    assert (bar.output_type, error.ename) == ("display_data", "PreemptedError")
    assert re.match(r"PreemptedError: stopped by SIGINT after step \d+ of 4000$", error.traceback[0])
    assert len(shown(bar).splitlines()) <= 8
    # The next interrupt is the notebook's own again.
    (error,) = notebook.cells[3].outputs
    assert error.ename == "KeyboardInterrupt"


@pytest.mark.slow
def test_an_adapter_answers_and_a_plan_is_a_table(notebook: Any) -> None:
    (said,) = outputs(notebook, 4, "stream")
    assert said.text == "2\n"
    (result,) = outputs(notebook, 4, "execute_result")
    assert "<table>" in result["data"]["text/html"]
    assert "on 1 × g2-standard-" in result["data"]["text/plain"]
    for bar in outputs(notebook, 4, "display_data"):
        assert shown(bar) == ""


@pytest.mark.slow
def test_a_bug_has_its_trace(notebook: Any) -> None:
    (error,) = notebook.cells[5].outputs
    assert any("Traceback" in line for line in error.traceback)
