"""The cloud verbs' own part: what they print and refuse before any program runs, and who is asked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from setups import Setup, config, site
from standins.fake_programs import FakePrograms

from packtrain.cli.main import main
from packtrain.gcp.session import Session

TOKEN = "hf_aVerySecretToken"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PACKTRAIN_KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    Path("run.yaml").write_text(yaml.safe_dump(config().model_dump(mode="json", exclude_defaults=True)))
    return "run.yaml"


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    """In place of gcloud and kubectl: what the session's runner would run, answered from memory."""
    fake = FakePrograms()
    monkeypatch.setattr(
        "packtrain.gcp.commands.Programs.run", lambda _, *words, **how: fake.run(*words, **how)
    )
    return fake


def test_without_gcloud_there_is_one_sentence(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for verb in ("setup", "check", "destroy"):
        assert main(["cloud", verb, run]) == 78
        told = capsys.readouterr().err
        assert "gcloud is not installed" in told
        assert "https://cloud.google.com/sdk/docs/install" in told


def test_a_dry_run_needs_no_program_and_shows_no_secret(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["cloud", "setup", run, "--dry-run", "--create-cluster"]) == 0
    printed = capsys.readouterr().out
    assert "gcloud container clusters create trainer" in printed
    assert "gcloud container node-pools create" not in printed, "--create-pool was not said"
    assert '"$HF_TOKEN"' in printed
    assert TOKEN not in printed
    assert list(tmp_path.iterdir()) == [tmp_path / "run.yaml"]


def test_setup_check_destroy(run: str, cloud: FakePrograms, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cloud", "setup", run, "--yes", "--create-cluster", "--create-pool"]) == 0
    told = capsys.readouterr()
    assert "to make  bucket gs://my-bucket" in told.out
    assert "Ready. Next: packtrain image build run.yaml" in told.out
    assert "gcloud storage buckets create gs://my-bucket" in told.err
    assert TOKEN not in told.out + told.err
    done = len(cloud.changes)
    assert main(["cloud", "setup", run]) == 0, "nothing to make: nobody is asked"
    assert len(cloud.changes) == done
    capsys.readouterr()
    assert main(["cloud", "destroy", run, "--dry-run"]) == 0
    assert "kubectl delete namespace training" in capsys.readouterr().out
    assert len(cloud.changes) == done
    assert main(["cloud", "destroy", run, "--yes"]) == 0
    assert "Removed 12." in capsys.readouterr().out
    assert cloud.state == {}
    assert main(["cloud", "destroy", run, "--yes"]) == 0
    assert "There is nothing to remove." in capsys.readouterr().out


def test_json_alone_is_on_stdout(
    run: str, cloud: FakePrograms, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = ["--create-cluster", "--create-pool", "--json"]
    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER", "http://127.0.0.1:9/")
    assert main(["cloud", "setup", run, "--dry-run", *everything]) == 0
    printed = json.loads(capsys.readouterr().out)["commands"]
    assert main(["cloud", "setup", run, "--yes", *everything]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {each["state"] for each in told["steps"]} == {"there"}
    assert [each["argv"] for each in printed] == [list(command.argv) for command in cloud.changes]
    assert main(["cloud", "check", run, "--json"]) == 69
    assert {"title", "verdict", "sentence"} <= json.loads(capsys.readouterr().out)["findings"][0].keys()
    assert main(["cloud", "destroy", run, "--dry-run", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["commands"]
    done = len(cloud.changes)
    assert main(["cloud", "destroy", run, "--yes", "--json"]) == 0
    assert "remove" in {each["state"] for each in json.loads(capsys.readouterr().out)["steps"]}
    assert [each["argv"] for each in printed] == [list(command.argv) for command in cloud.changes[done:]]


def test_nothing_is_made_or_removed_where_nobody_can_be_asked(
    run: str, cloud: FakePrograms, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cloud", "setup", run, "--create-cluster"]) == 2
    assert "--yes" in capsys.readouterr().err
    assert cloud.changes == []
    Setup(site(), cloud, Path("other-laptop")).run()
    done = len(cloud.changes)
    assert main(["cloud", "destroy", run]) == 2
    assert len(cloud.changes) == done


@pytest.mark.parametrize("token", ["", "with blank in it", 'quote"it', "$(id)-is-here", "short", "x" * 600])
def test_what_cannot_be_a_token_is_refused_and_not_repeated(
    token: str,
    run: str,
    cloud: FakePrograms,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read, write = os.pipe()
    os.write(write, token.encode())
    os.close(write)
    with open(read) as stdin:  # noqa: PTH123  (a pipe has no path)
        monkeypatch.setattr("sys.stdin", stdin)
        assert main(["cloud", "setup", run, "--token-stdin", "--yes", "--create-cluster"]) == 2
    told = capsys.readouterr().err
    assert "stdin" in told
    assert not token or token not in told
    assert cloud.ran == []


def test_a_wait_that_is_no_duration(
    run: str, cloud: FakePrograms, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cloud", "setup", run, "--wait", "soon", "--yes"]) == 2
    assert "--wait soon: is a duration" in capsys.readouterr().err
    assert cloud.ran == []


def test_a_run_file_without_a_cluster(
    run: str, cloud: FakePrograms, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(run).write_text("name: a\nmodel: {source: m/m}\ndata: {train: a/b}\n")
    assert main(["cloud", "setup", run, "--yes"]) == 78
    told = capsys.readouterr().err
    assert "cluster.project: is needed" in told
    assert "output.uri: is needed" in told


def test_the_journal_lies_with_the_cluster_it_is_of(run: str) -> None:
    from packtrain.gcp.session import open_session

    one: Session = open_session(config())
    other = open_session(config(name="other"))
    assert one.journal.path != other.journal.path
    one.journal.begin("bucket.b")
    assert (one.journal.began("bucket.b"), other.journal.began("bucket.b")) == (True, False)
    one.journal.path.write_text("torn {")
    assert not one.journal.began("bucket.b"), "a damaged journal is none"
    one.journal.begin("bucket.b")
    one.journal.end("bucket.b")
    assert not one.journal.path.exists()
