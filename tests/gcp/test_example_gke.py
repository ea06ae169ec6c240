"""The reference job as plain files: equal to what packtrain renders, and its commands are understood."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from packtrain import runfile
from packtrain.config import RunConfig, config_hash
from packtrain.kube.launch import Launch
from packtrain.kube.manifests import render, to_yaml
from packtrain.kube.names import TOKEN_KEY, TOKEN_SECRET

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "gke-llama3-dolly"
READMES = [EXAMPLE / "README.md", EXAMPLE / "README.ko.md"]
JOB = EXAMPLE / "finetune-job.yaml"
HEAD = """\
# The Job of run.yaml, and its run file as a ConfigMap: what `packtrain submit run.yaml --dry-run` prints.
# Put your project's id and your bucket's name in place of my-project-id and my-bucket-name (README.md).
"""
#: Fixed, so that the file stays the same. A run's id is only told apart within its own bucket.
RUN_ID = "01JZXAMP1E00000000000000G8"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def config() -> RunConfig:
    return runfile.load(EXAMPLE / "run.yaml", []).config


def rendered() -> str:
    read = config()
    assert read.cluster.image
    launch = Launch(read, runfile.dump(read), RUN_ID, read.cluster.image, config_hash(read))
    return HEAD + to_yaml(render(launch))


def command_lines() -> list[list[str]]:
    """The words of each command in the README, without variables in front; pipes are two commands."""
    text = "\n".join(
        body for language, body in FENCE.findall(READMES[0].read_text()) if language == "console"
    )
    lines = text.replace("\\\n", " ").splitlines()
    commands = [part for line in lines for part in line.split(" | ")]
    found = [shlex.split(each, comments=True) for each in commands]
    return [
        list(itertools.dropwhile(lambda word: re.match(r"\w+=", word), words)) for words in found if words
    ]


def test_the_job_is_the_rendered_one() -> None:
    if os.environ.get("PACKTRAIN_UPDATE"):
        JOB.write_text(rendered(), encoding="utf-8")
    assert JOB.read_text(encoding="utf-8") == rendered(), "renew it with PACKTRAIN_UPDATE=1"


def test_the_names_are_the_guides() -> None:
    documents = list(yaml.safe_load_all(JOB.read_text()))
    job = next(each for each in documents if each["kind"] == "Job")
    pod = job["spec"]["template"]["spec"]
    trainer = pod["containers"][0]
    assert job["metadata"]["name"] == "llama3-finetune-job"
    assert pod["serviceAccountName"] == "llama3-finetuner-ksa"
    assert "/ml-containers/llama-fsdp-trainer:" in trainer["image"]
    assert trainer["resources"]["limits"]["nvidia.com/gpu"] in (8, "8")
    token = next(each for each in trainer["env"] if each["name"] == "HF_TOKEN")
    reference = token["valueFrom"]["secretKeyRef"]
    assert (
        (reference["name"], reference["key"]) == (TOKEN_SECRET, TOKEN_KEY) == ("huggingface-secret", "token")
    )


def test_names_put_in_by_sed_leave_a_job_and_a_run_file_that_agree(tmp_path: Path) -> None:
    line = next(words for words in command_lines() if words[0] == "sed")
    for name in ("run.yaml", "finetune-job.yaml"):
        shutil.copy(EXAMPLE / name, tmp_path)
    command = " ".join(shlex.quote(word).replace("'", '"') for word in line)
    environment = os.environ | {"PROJECT_ID": "other-project-7", "BUCKET_NAME": "other-bucket"}
    subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=True, timeout=60)
    documents = list(yaml.safe_load_all((tmp_path / "finetune-job.yaml").read_text()))
    held = next(each for each in documents if each["kind"] == "ConfigMap")["data"]["run.yaml"]
    assert runfile.load(tmp_path / "run.yaml", []).config == RunConfig.model_validate(yaml.safe_load(held))
    assert "my-project-id" not in (text := (tmp_path / "finetune-job.yaml").read_text()).split("---", 1)[1]
    assert "my-bucket-name" not in text.split("---", 1)[1]
    assert "gs://other-bucket/final_model" in text


def test_push_is_a_clean_script() -> None:
    program = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    assert program, "shellcheck is in the dev extra"
    subprocess.run([program, str(EXAMPLE / "push.sh")], check=True, timeout=60)
    assert os.access(EXAMPLE / "push.sh", os.X_OK)


def test_push_wants_a_project() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PROJECT_ID"}
    ended = subprocess.run(
        [str(EXAMPLE / "push.sh")], env=environment, check=False, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode != 0
    assert "set PROJECT_ID" in ended.stderr


def test_the_script_trains_with_the_run_file_that_it_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("finetune", EXAMPLE / "scripts" / "finetune.py")
    assert spec and spec.loader
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setenv("PACKTRAIN_WORK", str(tmp_path))
    assert script.finetune(str(tmp_path / "none.yaml"), "-s", "train.epochs=2") == 78
    assert "none.yaml" in capsys.readouterr().err


def test_the_readmes_are_one_document_in_two_languages() -> None:
    english, korean = (path.read_text(encoding="utf-8") for path in READMES)
    assert FENCE.findall(english) == FENCE.findall(korean)
    for pattern in (r"^#+ ", r"^\|.*\|$", r"^- ", r"^\d+\. "):
        counts = [re.findall(pattern, FENCE.sub("", text), re.MULTILINE) for text in (english, korean)]
        assert len(counts[0]) == len(counts[1]), pattern
    links = [
        set(re.findall(r"\]\(([^)\s]+)\)", text)) - {"README.md", "README.ko.md"}
        for text in (english, korean)
    ]
    assert links[0] == links[1]
    for link in links[0]:
        assert link.startswith("https://") or (EXAMPLE / link).exists(), link


def test_every_packtrain_command_is_understood() -> None:
    import typer

    from packtrain.cli.main import VERBS, application

    seen = set()
    for words in command_lines():
        if words[0] != "packtrain":
            continue
        verb = " ".join(words[1:3]) if " ".join(words[1:3]) in VERBS else words[1]
        assert verb in VERBS, words
        found: Any = typer.main.get_command(application(words[1:2]))
        for word in verb.split():
            found = found.get_command(None, word)
        found.make_context(verb, words[1 + len(verb.split()) :])
        seen.add(verb)
    assert {"cloud setup", "image build", "submit", "logs", "fetch", "cloud destroy"} <= seen


def test_every_gcloud_command_has_its_flags() -> None:
    program = shutil.which("gcloud")
    table = Path(program).resolve().parents[1] / "data/cli/gcloud_completions.py" if program else None
    if table is None or not table.exists():
        pytest.skip("gcloud's table of commands is not here")
    known: dict[str, Any] = {}
    exec(table.read_text(), known)  # noqa: S102  (gcloud's own data file)
    for words in command_lines():
        if words[0] != "gcloud":
            continue
        node, flags = known["STATIC_COMPLETION_CLI_TREE"], set(known["STATIC_COMPLETION_CLI_TREE"]["flags"])
        rest = words[1:]
        while rest and rest[0] in node["commands"]:
            node = node["commands"][rest.pop(0)]
            flags |= set(node["flags"])
        assert not node["commands"], f"no whole command: {words}"
        asked = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert asked <= flags, words
