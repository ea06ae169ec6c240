"""gcloud and kubectl as a runner that answers at once, from a state in memory, for the tests of steps.

Its answers have the shape of the real programs' (gcloud 528, kubectl 1.27 to 1.33): test_real_gcloud.py and
test_setup_kubectl.py hold the same steps against both.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from packtrain.gcp.commands import ASKING, Command, Finished

NUMBER = "123456789012"
BUILDER = f"{NUMBER}-compute@developer.gserviceaccount.com"
Json = dict[str, Any]


class Absent(Exception):
    """What is asked for is not there."""


@dataclass
class FakePrograms:
    """``fails(command)``: how a command ends instead of what it does, or None."""

    state: dict[str, Json] = field(default_factory=dict)
    """By kind and name, such as ``bucket my-bucket``."""
    policies: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Resource -> (role, member)."""
    services: set[str] = field(default_factory=set)
    objects: dict[str, list[str]] = field(default_factory=dict)
    ran: list[Command] = field(default_factory=list)
    token: str = "hf_fakefakefake"
    fails: Callable[[Command], Finished | None] = lambda _: None

    def run(self, command: Command, *, timeout: float = ASKING) -> Finished:
        self.ran.append(command)
        failed = self.fails(command)
        if failed is not None:
            return failed
        try:
            said = _kubectl(self, command) if command.argv[0] == "kubectl" else _gcloud(self, command)
        except Absent as absent:
            return Finished(1, "", f"ERROR: (gcloud) NOT_FOUND: {absent}")
        return Finished(0, said if isinstance(said, str) else json.dumps(said))

    @property
    def changes(self) -> list[Command]:
        return [command for command in self.ran if changes(command)]

    def have(self, key: str) -> Json:
        if key not in self.state:
            raise Absent(key)
        return self.state[key]


def changes(command: Command) -> bool:
    """Whether it makes, changes or deletes something."""
    verbs = {"create", "enable", "update", "delete", "rm", "apply", "annotate"}
    return any(word in verbs or word.endswith("-iam-policy-binding") for word in command.argv[:6])


def flag(command: Command, name: str) -> str:
    return next((each.partition("=")[2] for each in command.argv if each.startswith(f"--{name}=")), "")


def _gcloud(fake: FakePrograms, command: Command) -> Any:  # noqa: PLR0911  (a return a case)
    words = [each for each in command.argv[1:] if not each.startswith("-")]
    match words:
        case ["projects", "describe", _]:
            return NUMBER + "\n"
        case ["builds", "get-default-service-account"]:
            return f"{BUILDER}\n"
        case ["auth", "print-access-token"]:
            return "an-access-token\n"
        case ["services", "list"]:
            return [{"config": {"name": name}} for name in sorted(fake.services)]
        case ["services", "enable", *names]:
            fake.services |= set(names)
        case ["storage", "ls", uri]:
            return "".join(f"{uri}/{name}\n" for name in fake.objects.get(uri, ()))
        case ["storage", "rm", uri]:
            fake.objects.pop(uri, None)
            fake.state.pop(f"buckets {uri}", None)
        case [*group, verb, name] if verb.endswith("iam-policy-binding") or verb == "get-iam-policy":
            return _policy(fake, command, f"{group[-1]} {name}", verb)
        case [*group, "list"]:
            return [each for key, each in fake.state.items() if key.startswith(f"{group[-1]} ")]
        case [*_, "get-credentials", _]:
            return ""
        case [*group, verb, name]:
            return _resource(fake, command, f"{group[-1]} {name}", verb)
        case _:
            raise AssertionError(command.argv)
    return ""


def _resource(fake: FakePrograms, command: Command, key: str, verb: str) -> Any:
    kind, _, name = key.partition(" ")
    if kind == "service-accounts" and verb == "create":
        key = f"{key}@{flag(command, 'project')}.iam.gserviceaccount.com"
    if verb == "describe":
        return fake.have(key)
    if verb == "delete":
        fake.have(key)
        del fake.state[key]
        fake.policies.pop(key, None)
    elif verb == "update":
        label = flag(command, "update-labels")
        fake.have(key)["labels"] = dict([label.split("=")])
    else:
        assert verb == "create" and key not in fake.state, command.argv
        fake.state[key] = _made(command, kind, name)
    return ""


def _made(command: Command, kind: str, name: str) -> Json:
    labels = dict([flag(command, "labels").split("=")]) if flag(command, "labels") else {}
    made: Json = {"name": name, "description": flag(command, "description"), "labels": labels}
    if kind == "buckets":
        return {
            "name": name,
            "location": flag(command, "location").upper(),
            "uniform_bucket_level_access": "--uniform-bucket-level-access" in command.argv,
            "public_access_prevention": "enforced" if "--public-access-prevention" in command.argv else "",
        }
    if kind == "repositories":
        return made | {"format": flag(command, "repository-format").upper()}
    if kind == "clusters":
        multi = "--enable-multi-networking" in command.argv
        return made | {
            "status": "RUNNING",
            "currentMasterVersion": "1.33.5-gke.1201000",
            "workloadIdentityConfig": {"workloadPool": flag(command, "workload-pool")},
            "resourceLabels": labels,
            "networkConfig": {"enableMultiNetworking": multi, "datapathProvider": "ADVANCED_DATAPATH"},
        }
    return made | _pool(command, labels) if kind == "node-pools" else made


def _pool(command: Command, labels: Json) -> Json:
    affinity = "SPECIFIC_RESERVATION" if flag(command, "reservation") else "NO_RESERVATION"
    networks = [each for each in command.argv if each.startswith("--additional-node-network=")]
    return {
        "status": "RUNNING",
        "config": {
            "machineType": flag(command, "machine-type"),
            "spot": "--spot" in command.argv,
            "flexStart": "--flex-start" in command.argv,
            "reservationAffinity": {"consumeReservationType": affinity},
            "workloadMetadataConfig": {"mode": flag(command, "workload-metadata")},
            "resourceLabels": labels,
        },
        "queuedProvisioning": {"enabled": "--enable-queued-provisioning" in command.argv},
        "networkConfig": {"additionalNodeNetworkConfigs": networks},
    }


def _policy(fake: FakePrograms, command: Command, key: str, verb: str) -> Any:
    fake.have(key)
    pairs = fake.policies.setdefault(key, [])
    member = flag(command, "member").replace("$PROJECT_NUMBER", NUMBER)
    pair = (flag(command, "role"), member.replace("$BUILD_ACCOUNT", BUILDER))
    if verb.startswith("add") and pair not in pairs:
        pairs.append(pair)
    elif verb.startswith("remove"):
        pairs.remove(pair)
    return {"bindings": [{"role": role, "members": [member]} for role, member in pairs]}


def _kubectl(fake: FakePrograms, command: Command) -> Any:  # noqa: PLR0912  (a branch a case)
    words = [each for each in command.argv[1:] if not each.startswith("-")]
    namespace = flag(command, "namespace")
    match words:
        case ["apply"]:
            assert command.stdin is not None
            for each in yaml.safe_load_all(command.stdin.replace("$HF_TOKEN", fake.token)):
                _apply(fake, each)
        case ["get", "secret", name]:
            found = fake.state.get(_key("secret", name, namespace))
            if found is None:
                return ""
            by = found["metadata"].get("labels", {}).get("app.kubernetes.io/managed-by", "")
            return {"keys": sorted(found["stringData"]), "by": by}
        case ["get", kind, name]:
            return fake.state.get(_key(kind, name, namespace), "")
        case ["get", kinds]:
            return {"items": _selected(fake, kinds, namespace, flag(command, "selector"))}
        case ["annotate", kind, name, *notes]:
            account = fake.have(_key(kind, name, namespace))
            annotations = account["metadata"].setdefault("annotations", {})
            for note in notes:
                if note.endswith("-") and "=" not in note:
                    annotations.pop(note[:-1], None)
                else:
                    annotations[note.partition("=")[0]] = note.partition("=")[2]
        case ["delete", kind, name]:
            fake.state.pop(_key(kind, name, namespace), None)
            if kind == "namespace":
                for key in [each for each in fake.state if each.endswith(f" in {name}")]:
                    del fake.state[key]
        case _:
            raise AssertionError(command.argv)
    return ""


def _key(kind: str, name: str, namespace: str) -> str:
    singular = kind.lower().partition(".")[0].removesuffix("s")
    return f"kube {singular} {name} in {namespace}" if namespace else f"kube {singular} {name}"


def _apply(fake: FakePrograms, made: Json) -> None:
    metadata = made["metadata"]
    if metadata.get("namespace"):
        fake.have(_key("namespace", metadata["namespace"], ""))
    key = _key(made["kind"], metadata["name"], metadata.get("namespace", ""))
    before = fake.state.get(key, {"metadata": {}})
    notes = {**before["metadata"].get("annotations", {}), **metadata.get("annotations", {})}
    fake.state[key] = {**made, "metadata": {**metadata, "annotations": notes}}


def _selected(fake: FakePrograms, kinds: str, namespace: str, selector: str) -> list[Json]:
    def fits(labels: dict[str, str]) -> bool:
        parts = [
            each.partition("!=") if "!=" in each else each.partition("=") for each in selector.split(",")
        ]
        return all((labels.get(key) == value) == (sign == "=") for key, sign, value in parts)

    names = tuple(f"kube {kind.partition('.')[0].removesuffix('s')} " for kind in kinds.split(","))
    return [
        each
        for key, each in fake.state.items()
        if key.startswith(names)
        and (key.endswith(f" in {namespace}") if namespace else " in " not in key)
        and fits(each["metadata"].get("labels", {}))
    ]


class Cut(BaseException):
    """The process is killed."""


def cut_at(cloud: FakePrograms, at: int, *, before: bool) -> None:
    """Have ``cloud`` kill whoever runs command number ``at`` that changes something: before it, or after."""
    number = itertools.count()

    def kill(command: Command) -> None:
        if not changes(command) or next(number) != at:
            return
        if not before:
            cloud.fails = lambda _: None
            cloud.run(command)
        raise Cut

    cloud.fails = kill
