"""Cases of the rules on secrets, rights and images (PT7). No token here was ever one."""

from __future__ import annotations

import base64
from typing import Any

from doctor_cases.kit import DROP, MAIN, POD, Case, deployment, edited, job, jobset
from doctor_cases.pods import SMALL

TOKEN = "hf_" + "Aa1" * 12
KEY = "-----BEGIN " + "PRIVATE KEY-----"
ENV = (*MAIN, "env", 0)
DIGEST = "a@sha256:" + "0" * 64


def secret(**data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": data}


def account(kind: str = "ServiceAccount", **annotations: str) -> dict[str, Any]:
    annotations = {key.replace("_", "/"): value for key, value in annotations.items()}
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": "a", "annotations": annotations}}


def identity(email: str, kind: str = "ServiceAccount") -> dict[str, Any]:
    metadata = {"name": "a", "annotations": {"iam.gke.io/gcp-service-account": email}}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def variable(name: str, value: str) -> Any:
    return job((ENV, {"name": name, "value": value}))


def gated(model: str, *more: dict[str, Any]) -> Any:
    return job(((*MAIN, "env"), [{"name": "MODEL", "value": model}, *more]))


def daemon_set(**spec: Any) -> dict[str, Any]:
    pod = {"containers": [{"name": "a", "image": "a:1"}], **spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "nvidia-gpu-device-plugin"},
        "spec": {"template": {"spec": pod}},
    }


PRIVILEGED = ((*MAIN, "securityContext", "privileged"), True)

CASES = (
    Case("PT701", variable("A", TOKEN), variable("A", "hf_transfer_and_other_long_names_of_things")),
    Case(
        "PT701", job(((*MAIN, "args"), ["--token", TOKEN])), job(((*MAIN, "args"), ["--token-file", "/hf"]))
    ),
    Case(
        "PT701",
        account("ConfigMap") | {"data": {"key.json": f'{{"private_key": "{KEY}"}}'}},
        account("ConfigMap") | {"data": {"a": "PRIVATE KEY"}},
    ),
    Case("PT701", f"a: [  # {TOKEN}", "a: []  # hf_"),
    Case("PT701", f"kind: {{{{ .Values.kind }}}}\ntoken: {TOKEN}\n", "kind: {{ .Values.kind }}\n"),
    Case("PT702", secret(token=encoded(TOKEN)), secret(token=encoded("to be filled in"))),
    Case("PT702", secret(token=encoded(TOKEN)), secret(token=TOKEN.removeprefix("hf_"))),
    Case(
        "PT703",
        variable("WANDB_API_KEY", "0123456789abcdef0123"),
        variable("WANDB_API_KEY", "<your key here>"),
    ),
    Case(
        "PT703",
        variable("DB_PASSWORD", "correct-horse-battery"),
        variable("DB_PASSWORD", "$(OTHER_VARIABLE)"),
    ),
    Case(
        "PT703",
        variable("MY_TOKEN", "0123456789abcdef0123"),
        variable("TOKENIZERS_PARALLELISM", "0123456789abcdef"),
    ),
    Case(
        "PT703",
        variable("MY_TOKEN", "0123456789abcdef0123"),
        job((ENV, {"name": "MY_TOKEN", "valueFrom": {"secretKeyRef": {"name": "a", "key": "token"}}})),
    ),
    Case(
        "PT704",
        job(
            ((*MAIN, "command"), ["bash", "-c", "huggingface-cli login --token $HF_TOKEN\nexec python a.py"])
        ),
        job(
            ((*MAIN, "command"), ["bash", "-c", "huggingface-cli login --token-file $FILE\nexec python a.py"])
        ),
    ),
    Case(
        "PT704",
        job(((*MAIN, "args"), ["--hf-token=$(HF_TOKEN)"])),
        job(((*MAIN, "args"), ["--batch-tokens=$(TOKENS)"])),
    ),
    Case("PT705", gated("meta-llama/Meta-Llama-3-8B"), gated("Qwen/Qwen2.5-7B")),
    Case("PT705", gated("google/gemma-3-4b-it"), gated("/models/meta-llama/Llama-3.1-8B")),
    Case(
        "PT705",
        gated("meta-llama/Meta-Llama-3-8B"),
        gated("meta-llama/Meta-Llama-3-8B", {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {}}}),
    ),
    Case(
        "PT705",
        job(((*MAIN, "env"), DROP), ((*MAIN, "args"), ["--model=meta-llama/Llama-3.1-8B"])),
        job(
            ((*MAIN, "env"), DROP),
            ((*MAIN, "envFrom"), [{"secretRef": {"name": "a"}}]),
            ((*MAIN, "args"), ["--model=meta-llama/Llama-3.1-8B"]),
        ),
    ),
    Case("PT711", job(((*POD, "hostNetwork"), True)), daemon_set(hostNetwork=True, serviceAccountName="a")),
    Case("PT712", job(PRIVILEGED), job(((*MAIN, "securityContext", "privileged"), False))),
    Case(
        "PT712", job(PRIVILEGED), daemon_set(containers=[{**SMALL, "securityContext": {"privileged": True}}])
    ),
    Case("PT713", job(((*POD, "automountServiceAccountToken"), DROP)), deployment({"containers": [SMALL]})),
    Case(
        "PT714",
        job(((*POD, "securityContext"), {}), ((*MAIN, "securityContext"), {})),
        job(((*POD, "securityContext"), {}), ((*MAIN, "securityContext"), {"runAsNonRoot": True})),
    ),
    Case("PT714", job(((*POD, "securityContext"), {}), ((*MAIN, "securityContext"), {})), jobset()),
    Case("PT715", job(((*MAIN, "image"), "us-docker.pkg.dev/a/b/c:latest")), job(((*MAIN, "image"), DIGEST))),
    Case("PT715", job(((*MAIN, "image"), "localhost:5000/a")), job(((*MAIN, "image"), "localhost:5000/a:1"))),
    Case("PT715", job(((*MAIN, "image"), "vllm/vllm-openai")), job(((*MAIN, "image"), "$IMAGE_URL"))),
    Case(
        "PT716", identity("llama3-finetuner"), identity("llama3-finetuner@my-project.iam.gserviceaccount.com")
    ),
    Case("PT716", identity("someone@gmail.com"), identity("GSA_NAME@PROJECT_ID.iam.gserviceaccount.com")),
    Case(
        "PT717",
        identity("a@b-c.iam.gserviceaccount.com", "Namespace"),
        identity("a@b-c.iam.gserviceaccount.com"),
    ),
    Case("PT718", edited(daemon_set(), (("metadata", "name"), "nvidia-driver-installer")), daemon_set()),
)
