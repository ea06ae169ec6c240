"""The page of real runs: published, at a stop, from a bucket, and no reason to fail."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from standins.bucket import BucketServer
from whole_run import Job, facts, make_job

from packtrain.cli.main import main

SECRET = "Zanzibar7"


def test_it_is_published_and_in_the_receipt_and_holds_no_row(tmp_path: Path, base: Path) -> None:
    rows = [*facts(23), {"instruction": SECRET, "context": SECRET, "response": SECRET}]
    job = make_job(
        tmp_path / "job",
        base,
        rows=rows,
        evaluate={"prompts": ["What is <i>fact</i> 3?"]},
        output={"uri": str(tmp_path / "out")},
    )
    job.done()
    assert "report.html" in job.receipt()["files"]
    published = (tmp_path / "out" / "report.html").read_text()
    last = job.run_dir.report_file.read_text()
    for page in (published, last):
        assert "What is &lt;i&gt;fact&lt;/i&gt; 3?" in page and "done and verified" in page
        assert SECRET not in page and str(tmp_path) not in page.replace(str(tmp_path / "out"), "")
    assert "adapter_model.safetensors" in last, "the receipt's files"
    assert [path.suffix for path in (job.run_dir.path / "tensorboard").iterdir()] == [".000001"]


def test_a_page_that_cannot_be_written_is_one_warning(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> str:
        raise OSError("no room for a page")

    monkeypatch.setattr("packtrain.report.page.render_run", broken)
    ended = job.done()
    assert ended.err.count("no room for a page") == 1
    assert "report.html" not in job.receipt()["files"]
    assert [event.fields["message"] for event in job.story("warning")].count(
        "report.html was not written (no room for a page); packtrain report RUN writes it"
    ) == 1


@pytest.mark.slow
def test_a_stop_leaves_one(job: Job) -> None:
    with job.process("-s", "train.epochs=400") as process:
        job.wait_for("step", 5, process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
        assert process.returncode == 75
    assert "asked to stop (SIGTERM)" in job.run_dir.report_file.read_text()


def test_from_a_bucket(
    job: Job,
    bucket_server: BucketServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri = bucket_server.uri("out")
    job.done("-s", f"output.uri={uri}")
    runs = f"{uri.removesuffix('/out')}/packtrain/tiny"
    assert any(name.endswith("/report.html") for name in bucket_server.names("packtrain/tiny/"))
    assert "out/report.html" in bucket_server.names("out/")
    monkeypatch.chdir(tmp_path)
    assert main(["report", runs]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "done and verified" in page and "SHA-256" in page
    capsys.readouterr()
    assert main(["explain", runs]) == 0
    assert f"published to {uri}" in capsys.readouterr().out
    assert main(["report", f"{uri}-none"]) == 78
