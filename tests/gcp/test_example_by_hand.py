"""The README's kubectl commands, run as they stand, in their order, by the real kubectl."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from standins.kube_api import KubeApi, kube_api  # noqa: F401
from standins.kube_store import Object
from standins.kube_story import Cluster, wait_until

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "gke-llama3-dolly"
TOKEN = "hf_aTokenOfTheTests"
NAME = "llama3-finetune-job"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
]


def commands() -> list[str]:
    """As they stand; but ``create`` sends protobuf, and the stand-in reads JSON: it is applied instead."""
    text = (EXAMPLE / "README.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if re.search(r"(^|\| )kubectl ", line)]
    applied = r"\1 --dry-run=client -o yaml | kubectl apply -f -"
    return [re.sub(r"(kubectl create .*)", applied, line).removesuffix(" -w") for line in lines]


def test_kubectl_does_what_the_readme_says(kube_api: KubeApi, tmp_path: Path) -> None:  # noqa: F811
    made: dict[str, Any] = {}

    def story(cluster: Cluster, job: Object) -> None:
        pod = cluster.pod(job)
        pod.run()
        pod.log("step 1/9", "publishing to gs://my-bucket-name/final_model")
        pod.exit(0)
        cluster.complete(job)

    kube_api.play(NAME, story)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "KUBECONFIG": str(kube_api.kubeconfig(tmp_path / "kubeconfig")),
        "HF_TOKEN": TOKEN,
    }
    said: dict[str, str] = {}
    for line in commands():
        ended = subprocess.run(
            ["bash", "-euc", line], env=environment, cwd=EXAMPLE,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, line + ended.stderr
        said[line] = ended.stdout
        if line.startswith("kubectl apply"):
            for kind in ("Job", "ConfigMap", "Secret", "ServiceAccount"):
                made |= {f"{kind} {each['metadata']['name']}": each for each in kube_api.find(kind)}
            wait_until(lambda: "conditions" in kube_api.get("Job", NAME).get("status", {}))
    assert {"Job llama3-finetune-job", "Secret huggingface-secret"} < set(made)
    secret = made["Secret huggingface-secret"]
    assert base64.b64decode(secret["data"]["token"]).decode() == TOKEN
    pod = made[f"Job {NAME}"]["spec"]["template"]["spec"]
    assert f"ServiceAccount {pod['serviceAccountName']}" in made
    log = next(out for line, out in said.items() if line.startswith("kubectl logs"))
    assert log.splitlines()[-1] == "publishing to gs://my-bucket-name/final_model"
    assert NAME in next(out for line, out in said.items() if line.startswith("kubectl get pods"))
    assert kube_api.names("Job") == kube_api.names("Secret") == kube_api.names("ConfigMap") == []
