"""The real gcloud and kubectl against servers on this machine: the verbs, from an empty project and back.

Slow (a second and more a command), so that one setup is shared; what the steps do with each answer is in
test_cloud_setup.py, against a runner whose answers are held against the real ones here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from setups import EVERYTHING, Setup, config
from standins.fake_programs import FakePrograms
from standins.google_cloud import GoogleCloud, serve_google_cloud
from standins.google_gke import a_cluster
from standins.kube_api import KubeApi

from packtrain.errors import PacktrainError
from packtrain.gcp.access import BUILD_ROLE, IMAGE_ROLE
from packtrain.gcp.ask import checked
from packtrain.gcp.check import from_plan
from packtrain.gcp.commands import Command, Programs
from packtrain.gcp.setup import Options, steps
from packtrain.gcp.shown import setup_script
from packtrain.gcp.site import BUCKET_ROLE, READER_ROLE, site_of

NEEDED = ("gcloud", "kubectl")
MISSING = [program for program in NEEDED if shutil.which(program) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # a command of gcloud takes a second here, and ten on a machine that is busy
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed"),
]
TOKEN = "hf_aVerySecretTokenOfTheTests"
MEMBER = (
    "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/"
    "my-project.svc.id.goog/subject/ns/training/sa/llama3-finetuner-ksa"
)


@dataclass
class Laptop:
    """A user's machine: a folder with a run file, and programs that lead to the stand-ins."""

    cloud: GoogleCloud
    kube: KubeApi
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        kubeconfig = self.kube.kubeconfig(self.folder / "kubeconfig")
        return {
            **kept,
            **self.cloud.environment(self.folder / "gcloud"),
            "HOME": str(self.folder),
            "PACKTRAIN_CACHE": str(self.folder / "cache"),
            "PACKTRAIN_KUBECONFIG": str(kubeconfig),
            "HF_TOKEN": TOKEN,
        }

    def packtrain(self, *words: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "packtrain.cli.main", *words],
            env=self.environment | environment,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )


def new_laptop(cloud: GoogleCloud, kube: KubeApi, folder: Path) -> Laptop:
    run = yaml.safe_dump(config(machine="g2-standard-8").model_dump(mode="json", exclude_defaults=True))
    (folder / "run.yaml").write_text(run)
    cloud.quotas["PREEMPTIBLE_NVIDIA_L4_GPUS"] = 8
    cloud.zones["g2-standard-8"] = ["us-central1-a"]
    return Laptop(cloud, kube, folder)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    kube = KubeApi(installed=())
    try:
        with serve_google_cloud() as cloud:
            yield new_laptop(cloud, kube, tmp_path_factory.mktemp("laptop"))
    finally:
        kube.close()


@pytest.fixture(scope="module")
def done(laptop: Laptop) -> subprocess.CompletedProcess[str]:
    """One whole setup of an empty project."""
    return laptop.packtrain("cloud", "setup", "run.yaml", "--yes", "--create-cluster")


def state_of(cloud: GoogleCloud, kube: KubeApi) -> dict[str, Any]:
    """What is in the project and the cluster, without what differs from one time to the next."""
    secret = kube.get("Secret", "huggingface-secret", namespace="training")
    account = kube.get("ServiceAccount", "llama3-finetuner-ksa", namespace="training")
    bindings = {key: policy["bindings"] for key, policy in cloud.policies.items()}
    return {
        "services": sorted(cloud.services),
        "buckets": cloud.buckets,
        "repositories": cloud.repositories,
        "clusters": cloud.clusters,
        "bindings": bindings,
        "secret": secret.get("data") or secret.get("stringData"),
        "account": {key: account["metadata"].get(key) for key in ("labels", "annotations")},
    }


def test_a_setup_from_an_empty_project(laptop: Laptop, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    cloud = laptop.cloud
    assert cloud.buckets["my-bucket"]["location"] == "us-central1"
    access = cloud.buckets["my-bucket"]["iamConfiguration"]
    assert access == {"uniformBucketLevelAccess": {"enabled": True}, "publicAccessPrevention": "enforced"}
    assert cloud.members("b/my-bucket", BUCKET_ROLE) == [MEMBER]
    repository = "projects/my-project/locations/us-central1/repositories/packtrain"
    nodes = "serviceAccount:123456789012-compute@developer.gserviceaccount.com"
    assert cloud.members(repository, IMAGE_ROLE) == [nodes]
    # Cloud Build builds with the same account here.
    assert cloud.members(repository, BUILD_ROLE) == [nodes]
    assert cloud.members("b/my-project_cloudbuild", READER_ROLE) == [nodes]
    cluster = cloud.clusters["projects/my-project/locations/us-central1/clusters/trainer"]
    assert cluster["workloadIdentityConfig"] == {"workloadPool": "my-project.svc.id.goog"}
    assert cluster["networkConfig"]["datapathProvider"] == "ADVANCED_DATAPATH"
    assert "left for you: node pool packtrain-g2-standard-8-spot" in done.stdout
    account = laptop.kube.get("ServiceAccount", "llama3-finetuner-ksa", namespace="training")
    assert account["automountServiceAccountToken"] is False
    assert not any(each.startswith("POST /v1/projects/my-project:setIam") for each in cloud.requests)


def test_the_secret_is_in_the_cluster_and_nowhere_else(
    laptop: Laptop, done: subprocess.CompletedProcess[str]
) -> None:
    import base64

    secret = laptop.kube.get("Secret", "huggingface-secret", namespace="training")
    kept = secret.get("data") or {}
    plain = base64.b64decode(kept["token"]).decode() if kept else secret["stringData"]["token"]
    assert plain == TOKEN
    assert "last-applied-configuration" not in json.dumps(secret)
    encoded = base64.b64encode(TOKEN.encode()).decode()
    for text in (done.stdout, done.stderr, "\n".join(laptop.cloud.requests)):
        assert TOKEN not in text and encoded not in text
    for path in laptop.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert TOKEN.encode() not in content and encoded.encode() not in content, path


def test_the_users_kubeconfig_is_not_touched(laptop: Laptop, done: subprocess.CompletedProcess[str]) -> None:
    assert not (laptop.folder / ".kube" / "config").exists()
    kept = yaml.safe_load((laptop.folder / "kubeconfig").read_text())
    assert [each["cluster"]["server"] for each in kept["clusters"]] == [laptop.kube.url]


def test_the_printed_commands_copied_into_a_shell_do_the_same(
    laptop: Laptop, done: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    kube = KubeApi(installed=())
    try:
        with serve_google_cloud() as cloud:
            other = new_laptop(cloud, kube, tmp_path)
            words = ("cloud", "setup", "run.yaml", "--create-cluster", "--dry-run")
            printed = other.packtrain(*words)
            assert printed.returncode == 0, printed.stderr
            assert cloud.requests == [], "--dry-run asks nothing"
            assert TOKEN not in printed.stdout
            ran = subprocess.run(
                ["bash", "-eu"], input=printed.stdout, env=other.environment, cwd=tmp_path,
                capture_output=True, text=True, timeout=800, check=False,
            )  # fmt: skip
            assert ran.returncode == 0, ran.stderr
            assert state_of(cloud, kube) == state_of(laptop.cloud, laptop.kube)
            assert cloud.changes() == laptop.cloud.changes()
    finally:
        kube.close()


def test_check_and_then_back_to_an_empty_project(
    laptop: Laptop, done: subprocess.CompletedProcess[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = laptop.cloud.changes()
    looked = laptop.packtrain("cloud", "check", "run.yaml", "--json")
    assert laptop.cloud.changes() == before, "a check changes nothing"
    assert looked.returncode == 78, looked.stdout + looked.stderr
    found = json.loads(looked.stdout)["findings"]
    assert [each["title"] for each in found if each["verdict"] not in {"ok", "note"}] == [
        "node pool packtrain-g2-standard-8-spot"
    ]
    # The runner of the other tests answers as the real programs do: the same plan, word for word.
    monkeypatch.setenv("PACKTRAIN_KUBECONFIG", "of the fake")
    fake = FakePrograms()
    setup = Setup(
        site_of(config(machine="g2-standard-8")), fake, tmp_path, Options(create_cluster=True, has_token=True)
    )
    setup.run()
    setup.options = Options(has_token=True)
    by_fake = [finding.to_json() for finding in from_plan(setup.plan())]
    assert found[: len(by_fake)] == by_fake
    laptop.cloud.objects["my-bucket"] = ["final_model/adapter_model.safetensors"]
    gone = laptop.packtrain("cloud", "destroy", "run.yaml", "--yes", "--delete-data")
    assert gone.returncode == 0, gone.stderr
    cloud = laptop.cloud
    assert (cloud.buckets, cloud.repositories, cloud.clusters) == ({}, {}, {})
    assert not any(policy["bindings"] for policy in cloud.policies.values())
    assert [each["metadata"]["name"] for each in laptop.kube.find("Namespace")] == ["default"]


REFUSED = {
    "storage buckets create": (
        ("POST", "/storage/v1/b$", 403, "me does not have storage.buckets.create access.", "forbidden"),
        77, "the permission storage.buckets.create is missing",
    ),
    "artifacts repositories describe": (
        ("GET", "/repositories/", 403, "Artifact Registry API has not been used in project 1 before or it"
         " is disabled. artifactregistry.googleapis.com", "PERMISSION_DENIED"),
        78, "the service artifactregistry.googleapis.com is not enabled",
    ),
    "container clusters describe": (
        ("GET", "/clusters/", 401, "Request had invalid authentication credentials.", "UNAUTHENTICATED"),
        77, "login is not accepted",
    ),
    "iam service-accounts create": (
        ("POST", "/serviceAccounts$", 409, "Service account x already exists.", "ALREADY_EXISTS"),
        73, "the name is taken",
    ),
    "projects describe": (
        ("GET", "/projects/gone$", 403, "The caller does not have permission", "PERMISSION_DENIED"),
        77, "the project gone is not there",
    ),
}  # fmt: skip
ARGUMENTS = {
    "storage buckets create": ("gs://gone",),
    "artifacts repositories describe": ("gone", "--location=us-central1"),
    "container clusters describe": ("gone", "--location=us-central1"),
    "iam service-accounts create": ("goner-account",),
    "projects describe": ("gone",),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_the_real_gcloud_says_of_a_refusal(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (method, pattern, status, message, reason), code, sentence = REFUSED[words]
    with serve_google_cloud() as cloud:
        cloud.fail(method, pattern, status, message, reason)
        project = () if words.startswith("projects") else ("--project=my-project",)
        command = Command(("gcloud", *words.split(), *ARGUMENTS[words], *project))
        with pytest.raises(PacktrainError, match=sentence) as raised:
            checked(Programs(cloud.environment(tmp_path)), command)
    assert raised.value.exit_code == code
    assert "\n" not in str(raised.value)


def test_gcloud_that_is_not_logged_in(tmp_path: Path) -> None:
    laptop_without = {
        "CLOUDSDK_CONFIG": str(tmp_path),
        "CLOUDSDK_AUTH_ACCESS_TOKEN": "",
        "NO_GCE_CHECK": "True",
    }
    with pytest.raises(PacktrainError, match="gcloud is not logged in") as raised:
        checked(Programs(laptop_without), Command(("gcloud", "projects", "describe", "my-project")))
    assert raised.value.exit_code == 77


@pytest.mark.parametrize(("machine", "cards"), [("a3-megagpu-8g", 8), ("a4-highgpu-8g", 9)])
def test_every_command_of_two_nodes_is_understood_by_gcloud(machine: str, cards: int, tmp_path: Path) -> None:
    """Flags that no other test here gives to the real program: one of each kind."""
    of = site_of(config(nodes=2, capacity="queued", machine=machine))
    options = replace(EVERYTHING, zone="us-central1-b")
    wanted = [command for step in steps(of, options) for command in step.make]
    assert ("trainer-gpu-8" if cards == 8 else "trainer-rdma-7") in setup_script(of, steps(of, options))
    with serve_google_cloud() as cloud:
        runner = Programs(cloud.environment(tmp_path))
        cloud.clusters["projects/my-project/locations/us-central1/clusters/trainer"] = a_cluster(
            "trainer", "us-central1"
        )
        kinds: dict[tuple[str, ...], Command] = {}
        for command in wanted:
            if command.argv[0] == "gcloud" and {"compute", "node-pools"} & set(command.argv):
                profile = any(word.startswith("--network-profile=") for word in command.argv)
                kinds.setdefault((*command.argv[:4], str(profile)), command)
        for command in kinds.values():
            checked(runner, command)
        pool = cloud.clusters["projects/my-project/locations/us-central1/clusters/trainer"]["nodePools"][0]
    assert len(pool["networkConfig"]["additionalNodeNetworkConfigs"]) == cards
    assert pool["queuedProvisioning"] == {"enabled": True}
    assert pool["config"]["flexStart"] is True
    profiles = [each["networkProfile"] for each in cloud.networks.values() if "networkProfile" in each]
    assert len(cloud.networks) == (3 if cards == 8 else 4)
    assert [each.rpartition("/")[2] for each in profiles] == (
        [] if cards == 8 else ["us-central1-b-vpc-roce"]
    )
