"""The runs of this machine in ``packtrain status``."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from report_kit import DONE, PREEMPTED, Make, Told, failed, saved, started, step

from packtrain.cli.main import main
from packtrain.report.story import gather
from packtrain.run.local_runs import LocalRun, local_runs
from packtrain.rundir import RunDir, ends_of, history


def test_each_run_has_its_sentence(make_run: Make, tmp_path: Path) -> None:
    make_run([started(), step(6), DONE], name="done")
    make_run([started(), step(1), saved(1)], name="open")
    make_run([started(), step(3), PREEMPTED], name="stopped")
    make_run([started(), failed(65, "row 7 is bad")], name="wrong")
    make_run(name="young")
    (tmp_path / "other").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    told = {run.name: run.sentence for run in local_runs(tmp_path)}
    assert told.pop("open").startswith("at work, or killed: step 1 of 6; its last word is of 20")
    assert told == {
        "done": "succeeded: done and verified",
        "stopped": "preempted: stopped by SIGTERM after step 3 of 6",
        "wrong": "failed: row 7 is bad",
        "young": "not begun",
    }


def test_status_lists_them_where_there_is_no_cluster(
    make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PACKTRAIN_KUBECONFIG", raising=False)
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))
    make_run([started(), step(6), DONE], name="mine").path.rename(tmp_path / "moved")
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 78
    capsys.readouterr()
    (tmp_path / "moved").rename(tmp_path / "runs" / "mine")
    assert main(["status"]) == 0
    assert capsys.readouterr().out == "mine  succeeded: done and verified  runs/mine\n"
    assert main(["status", "--json"]) == 0
    [told] = json.loads(capsys.readouterr().out)
    assert (told["name"], told["progress"]["step"], told["exit_code"]) == ("mine", 6, 0)
    assert main(["status", "--namespace", "x"]) == 78


def stands(run_dir: RunDir, *, whole: bool) -> dict[str, object]:
    """What is said of a run by all of its events, or by their ends."""
    events = history(run_dir.events_file) if whole else ends_of(run_dir.events_file, 4 << 10, 40 << 10)
    return LocalRun("a", "01A", run_dir.path, gather(events)).to_json()


def steps(first: int, last: int) -> list[Told]:
    return [step(number) for number in range(first, last)]


@pytest.mark.parametrize(
    "attempts",
    [
        [[started(), *steps(1, 400), saved(399), *steps(400, 900)]],
        [[started(), *steps(1, 900), saved(899), DONE]],
        [[started(), saved(0), *steps(1, 900)], [started(20), *steps(21, 60)]],
        [[started(), *steps(1, 300)], [started(290), saved(290), *steps(291, 900), PREEMPTED]],
        [[started(), *steps(1, 900)]],
        [[started(), *steps(1, 900), saved(880)], [started(880)]],
        [[started(), step(1)]],
        [],
    ],
)
def test_the_ends_of_a_long_file_say_what_all_of_it_says(make_run: Make, attempts: list[list[Told]]) -> None:
    run_dir = make_run(*attempts)
    told = stands(run_dir, whole=True)
    assert stands(run_dir, whole=False) == told
    if attempts and len(attempts[0]) > 100:
        assert len(ends_of(run_dir.events_file, 4 << 10, 40 << 10)) < 250, "the middle is not parsed"
    with suppress(FileNotFoundError), run_dir.events_file.open("ab") as file:
        file.write(b'{"version": 1, "time": "2026')  # torn
    assert stands(run_dir, whole=False) == told
