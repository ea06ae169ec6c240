"""The setup's steps in the cluster, carried out by the real kubectl, old and new, against a stand-in server.

Google Cloud itself answers from memory here; the real gcloud is in test_real_gcloud.py.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kubectls import VERSIONS, need_kubectl
from setups import EVERYTHING, Setup, site
from standins.fake_programs import FakePrograms
from standins.kube_api import Fault, KubeApi
from standins.kube_resources import GKE, JOBSET

from packtrain.errors import AccessError, UnavailableError
from packtrain.gcp.commands import ASKING, Command, Finished, Programs
from packtrain.gcp.kubectl import is_ours
from packtrain.gcp.setup import Options

pytestmark = pytest.mark.slow
TOKEN = "hf_aVerySecretTokenOfTheTests"


@dataclass
class WithKubectl:
    """kubectl as a program, everything else from memory."""

    kubectl: Programs
    cloud: FakePrograms = field(default_factory=FakePrograms)
    ran: list[Command] = field(default_factory=list)

    def run(self, command: Command, *, timeout: float = ASKING) -> Finished:
        if command.argv[0] != "kubectl":
            return self.cloud.run(command, timeout=timeout)
        self.ran.append(command)
        return self.kubectl.run(command, timeout=timeout)


@dataclass
class Laptop:
    api: KubeApi
    runner: WithKubectl
    setup: Setup


@pytest.fixture(params=VERSIONS)
def laptop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laptop:
    program = need_kubectl(request.param)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/kubectl").symlink_to(program)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    api = KubeApi(installed=(GKE,))
    request.addfinalizer(api.close)
    environment = {"HOME": str(tmp_path), "KUBECONFIG": str(api.kubeconfig(tmp_path / "kubeconfig"))}
    programs = Programs(environment, values={"PROJECT_NUMBER": "123456789012"}, secrets={"HF_TOKEN": TOKEN})
    runner = WithKubectl(programs)
    options = Options(create_cluster=True, create_pool=True, has_token=True)
    assert options == EVERYTHING
    return Laptop(api, runner, Setup(site(nodes=2), runner, tmp_path, options))


def test_from_nothing_to_ready_and_back(laptop: Laptop) -> None:
    ended = laptop.setup.run()
    states = {each.step.key: each.seen.state for each in ended}
    assert {key for key, state in states.items() if state != "there"} == {
        *("jobset", "tcpxo-installer", "device-injector"),
    }
    api = laptop.api
    account = api.get("ServiceAccount", "llama3-finetuner-ksa", namespace="training")
    assert account["automountServiceAccountToken"] is False
    assert api.names("Network") == [f"vpc{index}" for index in range(1, 9)]
    assert {each["spec"]["deviceMode"] for each in api.find("GKENetworkParamSet")} == {"NetDevice"}
    assert all(is_ours(each) for each in api.find("Network"))
    secret = api.get("Secret", "huggingface-secret", namespace="training")
    kept = secret.get("data") or {}
    plain = base64.b64decode(kept["token"]).decode() if kept else secret["stringData"]["token"]
    assert plain == TOKEN
    assert "last-applied-configuration" not in json.dumps(secret)
    assert not any(TOKEN in " ".join(command.argv) for command in laptop.runner.ran)
    done = len(laptop.runner.cloud.changes)
    again = laptop.setup.run()
    assert {each.step.key: each.seen.state for each in again} == states
    assert len(laptop.runner.cloud.changes) == done, "a second run changes nothing"
    laptop.setup.destroy()
    assert api.names("Namespace") == ["default"]
    assert api.names("Network") == api.names("GKENetworkParamSet") == []


def test_addons_are_seen_with_their_version(laptop: Laptop) -> None:
    laptop.setup.site = site(nodes=2, machine="g2-standard-8")
    laptop.api.install(GKE, JOBSET, version="v0.9.1")
    (old,) = [each.seen for each in laptop.setup.plan() if each.step.key == "jobset"]
    assert (old.state, "0.9.1" in old.sentence) == ("later", False), "there is no cluster yet"
    laptop.setup.run()
    (old,) = [each.seen for each in laptop.setup.plan() if each.step.key == "jobset"]
    assert (old.state, "is version 0.9.1" in old.sentence) == ("yours", True)
    laptop.api.install(GKE, JOBSET, version="v0.11.1")
    (new,) = [each.seen for each in laptop.setup.plan() if each.step.key == "jobset"]
    assert (new.state, new.sentence) == ("there", "version 0.11.1")


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (
            Fault(403, message='serviceaccounts "x" is forbidden: User "me" cannot patch'),
            AccessError,
            "refused",
        ),
        (Fault(500), UnavailableError, "kubectl"),
    ],
    ids=["forbidden", "broken"],
)
def test_a_refusal_is_told_and_the_next_run_goes_on(
    laptop: Laptop, fault: Fault, kind: type[Exception], said: str
) -> None:
    laptop.api.faults.add("PATCH", "/serviceaccounts/", fault, times=None)
    laptop.setup.site = site()
    with pytest.raises(kind, match=said) as raised:
        laptop.setup.run()
    assert "\n" not in str(raised.value)
    assert laptop.api.names("ServiceAccount") == []
    laptop.api.faults.clear()
    laptop.setup.run()
    assert laptop.api.names("ServiceAccount") == ["llama3-finetuner-ksa"]
