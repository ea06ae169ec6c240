"""The runs of this machine in ``packtrain status``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_kit import DONE, PREEMPTED, Make, failed, saved, started, step

from packtrain.cli.main import main
from packtrain.run.local_runs import local_runs


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
