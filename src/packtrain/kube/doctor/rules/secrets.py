"""Rules on what must not be seen: tokens, passwords and keys in manifests, arguments and images' names.

No sentence repeats a secret that it found.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from packtrain.kube.doctor import sources
from packtrain.kube.doctor.documents import Document
from packtrain.kube.doctor.rule import Problem, rule
from packtrain.kube.doctor.tree import Node
from packtrain.kube.doctor.workloads import Pod

#: What gives itself away by its form.
SECRETS = (
    ("a Hugging Face token", re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")),
    ("a private key", re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")),
    ("a key of an IAM service account", re.compile(r'"private_key_id"\s*:\s*"[0-9a-f]{20,}"')),
    ("a Google API key", re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b")),
    ("a Google access token", re.compile(r"\bya29\.[0-9A-Za-z_-]{20,}")),
    ("a GitHub token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})\b")),
    ("an access key of AWS", re.compile(r"\bAKIA[0-9A-Z]{16}\b")),
)
_NAMES = re.compile(r"(?:^|_)(?:TOKEN|API_?KEY|SECRET|SECRET_KEY|PASSWORD|PASSWD|ACCESS_KEY)$", re.IGNORECASE)
#: Values that hold no secret: a reference, a path, or a place to fill in.
_HARMLESS = re.compile(r"^\$[({]|^/|^<.*>$|^[A-Z_]+$|^\.{3}$")
_PLACEHOLDER = re.compile(
    r"^(?:your|my|insert|replace|change|xxx|todo|fill|example|dummy|test)", re.IGNORECASE
)
_OPTION = re.compile(
    r"(--?(?:hf[-_])?(?:auth[-_])?(?:token|api[-_]key|password)|--hf[-_]token|HF_TOKEN|HUGGING_FACE_HUB_TOKEN)"
    r"(?:=|\s+)[\"']?(\$\(?\{?\w+)"
)
#: Families of the Hugging Face hub that are given to whoever has accepted their licence.
_GATED = re.compile(r"(?<![\w./-])(?:meta-llama/[\w.-]+|google/gemma-[\w.-]+)")
_TOKENS = {
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACE_TOKEN",
    "HUGGINGFACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
}
_TOKENS |= {"HF_API_TOKEN", "HF_HUB_OFFLINE"}


def found_in(text: str) -> str:
    """What kind of secret a text holds, or empty."""
    return next((name for name, pattern in SECRETS if pattern.search(text)), "")


@rule(
    Document,
    "PT701",
    "error",
    "A secret in a manifest",
    source=sources.SECRET_PRACTICES,
    fix="Take it back where it was issued; make the Secret from stdin or a file "
    "(kubectl create secret generic NAME --from-file=token=/dev/stdin) and name it by secretKeyRef.",
)
def secret(document: Document) -> Iterator[Problem]:
    if kind := found_in(document.text):
        yield document.root, f"the file holds {kind}"
    for node in document.root.walk():
        if kind := found_in(node.text):
            yield node, f"the document holds {kind}"


@rule(
    Document,
    "PT702",
    "error",
    "A Secret with its content, in a file",
    source=sources.SECRET_PRACTICES,
    fix="Take it back where it was issued, and make the Secret from stdin: base64 hides nothing.",
)
def secret_object(document: Document) -> Iterator[Problem]:
    if document.kind != "Secret" or document.root["type"].text == "kubernetes.io/service-account-token":
        return
    for _, node in document.root["data"].pairs():
        try:
            text = base64.b64decode(node.text, validate=True).decode(errors="replace")
        except (binascii.Error, ValueError):
            continue
        if kind := found_in(text):
            yield node, f"the Secret holds {kind}, in base64"


@rule(
    Pod,
    "PT703",
    "error",
    "A secret as the value of a variable",
    source=sources.SECRETS,
    fix="Use valueFrom.secretKeyRef.",
)
def environment(pod: Pod) -> Iterator[Problem]:
    for container in pod.containers:
        for entry in container.node["env"]:
            name, value = entry["name"].text, entry["value"]
            # A short value, or one that says what to put there, is no secret; one of a known form is PT701.
            if (
                _NAMES.search(name)
                and len(value.text) >= 12
                and not _HARMLESS.search(value.text)
                and not _PLACEHOLDER.search(value.text)
                and not found_in(value.text)
            ):
                yield (
                    value,
                    f"the variable {name} of container {container.name} has its value in the manifest",
                )


@rule(
    Pod,
    "PT704",
    "warning",
    "A secret among a command's arguments",
    source=sources.SECRET_PRACTICES,
    fix="Let the program read the variable itself (HF_TOKEN): every process of the node can list arguments.",
)
def arguments(pod: Pod) -> Iterator[Problem]:
    for container in pod.containers:
        for word in _words(container.node):
            for option, variable in _OPTION.findall(word.text):
                if re.search(r"token|key|secret|password", variable, re.IGNORECASE) and option.startswith(
                    "-"
                ):
                    yield (
                        word,
                        f"container {container.name} passes a secret as an argument: {option} {variable}",
                    )
                    break


@rule(
    Pod,
    "PT705",
    "warning",
    "A gated model, and no token",
    source=sources.GATED_MODELS,
    fix="Give HF_TOKEN by secretKeyRef, and try token and licence before GPUs are paid: packtrain submit "
    "does so; in Python it is huggingface_hub.auth_check(MODEL).",
)
def gated(pod: Pod) -> Iterator[Problem]:
    if not pod.gpus or any("secret" in each or "csi" in each for each in pod.spec["volumes"]):
        return  # the token, or the model itself, may lie in a volume
    for container in pod.workers:
        names = {entry["name"].text for entry in container.node["env"]}
        if names & _TOKENS or container.node["envFrom"].present:
            continue
        values = [entry["value"] for entry in container.node["env"]]
        for word in (*_words(container.node), *values):
            if model := _GATED.search(word.text):
                yield (
                    word,
                    f"{model[0]} is gated, and container {container.name} has no Hugging Face token: that "
                    "is found out on the GPU node",
                )
                break


def _words(container: Node) -> Iterator[Node]:
    yield from container["command"]
    yield from container["args"]


RULES = (secret, secret_object, environment, arguments, gated)
