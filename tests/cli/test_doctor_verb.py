"""``packtrain doctor``: what it reads, what it prints, and how it ends."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packtrain.kube.doctor.rules import ALL

Cli = Callable[..., Any]

RUN = """\
name: mine
model: {source: meta-llama/Meta-Llama-3-8B-Instruct}
data: {train: databricks/databricks-dolly-15k}
output: {uri: gs://my-bucket/mine}
cluster: {project: my-project, location: us-central1, name: my-cluster}
"""
JOB = """\
apiVersion: batch/v1
kind: Job
metadata: {name: tune}
spec:
  template:
    spec:
      containers:
      - name: main
        image: a:latest
        env:
        - {name: COUNT, value: 8}
"""
PARAMETERS = """\
apiVersion: v1
kind: ServiceAccount
metadata:
  name: a
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_findings_are_printed_as_a_linter_does(cli: Cli, here: Path) -> None:
    (here / "job.yaml").write_text(JOB)
    ended = cli("doctor", "job.yaml")
    assert ended.code == 1
    lines = ended.out.splitlines()
    assert lines[0] == (
        "job.yaml:9: warning PT715: container main runs a:latest, which may be another tomorrow"
    )
    assert lines[1] == "    at   Job/tune spec.template.spec.containers[0].image"
    assert lines[2].startswith("    fix  Name a version")
    assert lines[3].startswith("    see  https://")
    assert lines[4].startswith("job.yaml:11: error PT211: COUNT is 8")
    assert lines[-1] == "1 error, 1 warning in 1 document (1 pod template)"


def test_what_to_do_is_said_once_a_rule(cli: Cli, here: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (here / name).write_text(JOB)
    ended = cli("doctor", "a.yaml", "b.yaml")
    assert ended.out.count("error PT211") == 2
    assert ended.out.count("fix  Put the value in quotes") == 1


def test_warnings_alone_end_well(cli: Cli, here: Path) -> None:
    (here / "job.yaml").write_text(JOB.replace("value: 8", "value: '8'"))
    assert cli("doctor", "job.yaml").code == 0


def test_json(cli: Cli, here: Path) -> None:
    (here / "job.yaml").write_text(JOB)
    ended = cli("doctor", "job.yaml", "--json")
    assert ended.code == 1
    report = json.loads(ended.out)
    assert report["summary"]["error"] == 1
    assert report["summary"]["pod_templates"] == 1
    error = next(each for each in report["findings"] if each["severity"] == "error")
    assert (
        error.items()
        >= {
            "file": "job.yaml",
            "line": 11,
            "kind": "Job",
            "name": "tune",
            "path": "spec.template.spec.containers[0].env[0].value",
            "rule": "PT211",
        }.items()
    )
    assert error["fix"] and error["source"] and error["message"]


def test_rules(cli: Cli) -> None:
    ended = cli("doctor", "--rules")
    assert ended.code == 0
    assert [line.split()[0] for line in ended.out.splitlines()] == [rule.id for rule in ALL]
    listed = json.loads(cli("doctor", "--rules", "--json").out)
    assert [rule["id"] for rule in listed] == [rule.id for rule in ALL]


def test_standard_input(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(JOB))
    ended = cli("doctor", "-")
    assert ended.code == 1
    assert ended.out.startswith("<stdin>:9: ")


def test_a_run_file_is_rendered_and_clean(cli: Cli, here: Path) -> None:
    (here / "run.yaml").write_text(RUN)
    ended = cli("doctor", "run.yaml")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("nothing found in ")
    assert "2 pod templates" in ended.out


def test_a_run_file_with_overrides(cli: Cli, here: Path) -> None:
    (here / "run.yaml").write_text(RUN)
    ended = cli("doctor", "run.yaml", "-s", "cluster.nodes=2", "-s", "cluster.host_network=true")
    assert ended.code == 0
    assert "run.yaml (rendered): warning PT711" in ended.out


def test_a_run_file_that_cannot_run_in_a_cluster(cli: Cli, here: Path) -> None:
    (here / "run.yaml").write_text(RUN.replace("gs://my-bucket/mine", "out"))
    ended = cli("doctor", "run.yaml")
    assert ended.code == 78
    assert "output.uri" in ended.err


def test_a_bad_run_file(cli: Cli, here: Path) -> None:
    (here / "run.yaml").write_text(RUN + "tain: {}\n")
    ended = cli("doctor", "run.yaml")
    assert ended.code == 78
    assert "tain" in ended.err


def test_a_folder_is_read_through(cli: Cli, here: Path) -> None:
    folder = here / "deploy"
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "sub" / "job.yml").write_text(JOB)
    (folder / ".git" / "job.yaml").write_text(JOB)
    (folder / "values.yaml").write_text("a: !Ref b\n")
    (folder / "pool.json").write_text('{"name":"a","config":{"machineType":"g2-standard-4"}}')
    (folder / "job.txt").write_text(JOB)
    ended = cli("doctor", "deploy")
    assert ended.code == 1
    assert "sub/job.yml:11: error PT211" in ended.out
    assert ".git" not in ended.out and "values.yaml" not in ended.out
    assert ended.out.splitlines()[-1].endswith("in 2 documents (1 pod template, 1 node pool)")


def test_files_of_a_folder_are_judged_alone_and_named_ones_together(cli: Cli, here: Path) -> None:
    repository = "us-docker.pkg.dev/gce-ai-infra/gpudirect-tcpxo"
    folder = here / "deploy"
    folder.mkdir()
    plugin = JOB.replace("a:latest", f"{repository}/nccl-plugin-gpudirecttcpx-dev:v1.0.15")
    daemon = JOB.replace("a:latest", f"{repository}/tcpgpudmarxd-dev:v1.0.20")
    (folder / "plugin.yaml").write_text(plugin)
    (folder / "daemon.yaml").write_text(daemon)
    assert "PT601" not in cli("doctor", "deploy").out
    assert "PT601" in cli("doctor", "deploy/plugin.yaml", "deploy/daemon.yaml").out


@pytest.mark.parametrize("content", [b"\xff\xfe\x00a", b"a: \xc3\x28"])
def test_a_file_that_is_no_text(cli: Cli, here: Path, content: bytes) -> None:
    (here / "a.yaml").write_bytes(content)
    ended = cli("doctor", "a.yaml")
    assert ended.code == 1
    assert "error PT101" in ended.out


def test_a_path_that_is_not_there(cli: Cli) -> None:
    ended = cli("doctor", "nowhere.yaml")
    assert ended.code == 78
    assert "nowhere.yaml: cannot be read" in ended.err


def test_nothing_to_read(cli: Cli) -> None:
    ended = cli("doctor")
    assert ended.code == 2
    assert "name a run file" in ended.err


def test_no_secret_is_repeated(cli: Cli, here: Path) -> None:
    token = "hf_" + "Zz9" * 12
    (here / "job.yaml").write_text(JOB.replace("value: 8", f"value: {token}") + f"# {token}\n")
    for options in ((), ("--json",)):
        ended = cli("doctor", "job.yaml", *options)
        assert ended.code == 1
        assert "PT701" in ended.out
        assert token not in ended.out + ended.err


def test_nothing_is_found_in_a_plain_object(cli: Cli, here: Path) -> None:
    (here / "a.yaml").write_text(PARAMETERS)
    ended = cli("doctor", "a.yaml")
    assert (ended.code, ended.out) == (0, "nothing found in 1 document\n")


def test_judging_a_manifest_imports_nothing_heavy(here: Path) -> None:
    (here / "job.yaml").write_text(JOB)
    code = (
        "import sys\nfrom packtrain.cli.main import main\nassert main(['doctor', 'job.yaml']) == 1\n"
        "heavy = {'torch', 'transformers', 'peft', 'google', 'pyarrow', 'numpy', 'lightkube'}\n"
        "assert heavy.isdisjoint(name.partition('.')[0] for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


@pytest.mark.parametrize("path", ["empty", "empty.yaml", "-"])
def test_nothing_to_judge_is_no_success(
    cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """As when the program before the pipe has failed."""
    (here / "empty").mkdir()
    (here / "empty.yaml").write_text("# nothing\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    ended = cli("doctor", path)
    assert ended.code == 78
    assert "holds nothing to judge" in ended.err
