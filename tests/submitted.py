"""A run file for a cluster that is a stand-in, as are its bucket and hub; and what becomes of its pods."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from standins.bucket import BucketServer
from standins.hub import Hub, Repo, point_here, serve_hub
from standins.kube_api import KubeApi
from standins.kube_store import Object
from standins.kube_story import Cluster, Pod
from whole_run import Ended, packtrain

from packtrain.kube.observe import Pace
from packtrain.rundir import EventWriter

IMAGE = "us-central1-docker.pkg.dev/my-project/packtrain/trainer@sha256:" + "a" * 64
QUICK = Pace(least=0.01, most=0.3, repeat=0.0, stuck=0.5, away=60.0)
#: What a trainer prints, as the follower reads it.
TRAINING = ("loading org/base", "10 rows, 4 steps, on cuda in bfloat16", "step 2/4  loss 1.5000  99 tokens/s")
ENDING = ("step 4/4  loss 1.2000  99 tokens/s", "writing the adapter", "publishing to gs://test-bucket/out")


@dataclass
class Site:
    """All that a submit meets."""

    api: KubeApi
    bucket: BucketServer
    hub: Hub
    folder: Path

    def run_file(self, name: str = "train", **changes: Any) -> Path:
        """``cluster__nodes=2`` for nested keys."""
        config: dict[str, Any] = {
            "name": name,
            "model": {"source": "org/base"},
            "data": {"train": "org/rows"},
            "output": {"uri": self.bucket.uri("out")},
            "cluster": {
                "project": "my-project",
                "location": "us-central1",
                "name": "gpu",
                "service_account": "packtrain",
                "image": IMAGE,
                "max_cost": "100 USD",
            },
        }
        for key, value in changes.items():
            place = config
            *way, last = key.split("__")
            for part in way:
                place = place.setdefault(part, {})
            place[last] = value
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    def packtrain(self, *arguments: str | Path) -> Ended:
        return packtrain(*map(str, arguments))

    def play(self, story: Callable[[Cluster, Object], None], name: str = "train") -> None:
        """After a preflight that finds everything in order."""
        self.api.play("*-preflight", good_preflight)
        self.api.play(name, story)

    def run_id(self, name: str = "train") -> str:
        pointer = json.loads(self.bucket.data(f"packtrain/{name}/current.json"))
        return str(pointer["run_id"])

    def tell(self, run_id: str, *events: tuple[str, int, dict[str, Any]], attempt: int = 1) -> None:
        """Events of an attempt, in the bucket."""
        path = self.folder / f"events-{attempt}.jsonl"
        with EventWriter(path, attempt) as writer:
            for kind, step, fields in events:
                writer.write(kind, step, **fields)  # type: ignore[arg-type]
        self.bucket.put(f"packtrain/train/{run_id}/events/{attempt:06d}-{0:010d}.jsonl", path.read_bytes())


@contextmanager
def make_site(
    kube_api: KubeApi, bucket_server: BucketServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    base, rows = folder / "base", folder / "rows"
    for each, name, text in ((base, "config.json", "{}"), (rows, "rows.jsonl", '{"text": "a"}\n')):
        each.mkdir()
        (each / name).write_text(text)
    models: dict[str, Path | dict[str, Path] | Repo] = {
        "org/base": base,
        "org/gated": Repo({"main": base}, gated=True),
    }
    with serve_hub(models=models, datasets={"org/rows": rows}) as hub:
        point_here(monkeypatch, hub, folder / "home")
        monkeypatch.setenv("PACKTRAIN_KUBECONFIG", str(kube_api.kubeconfig(folder / "kubeconfig")))
        monkeypatch.setenv("PACKTRAIN_CACHE", str(folder / "cache"))
        monkeypatch.setattr("packtrain.kube.observe.PACE", QUICK)
        kube_api.create("ServiceAccount", "packtrain")
        yield Site(kube_api, bucket_server, hub, folder)


def run_id_of(job: Object) -> str:
    return str(job["metadata"]["labels"]["packtrain.dev/run-id"]).upper()


def receipt(run_id: str) -> bytes:
    fields = {
        "run_id": run_id,
        "name": "train",
        "files": {},
        "base": {},
        "data": {},
        "metrics": {"base_loss": 2.0, "loss": 1.25},
        "versions": {},
        "seed": 1,
        "config_hash": "0" * 64,
        "steps": 4,
        "tokens": 400,
        "created": "2026-11-24T00:00:00Z",
        "version": 1,
    }
    return json.dumps(fields).encode()


def good_preflight(cluster: Cluster, job: Object) -> None:
    pod = cluster.pod(job)
    pod.run("system-node")
    checks = [{"name": "model", "subject": "org/base", "ok": True}]
    pod.log(json.dumps({"packtrain": "preflight", "exit_code": 0, "checks": checks}))
    pod.exit(0)
    cluster.complete(job)


def real_preflight(cluster: Cluster, job: Object) -> None:
    """The program itself, with the files and the environment that its pod would have."""
    pod = cluster.pod(job)
    pod.run("system-node")
    folder = Path(tempfile.mkdtemp())
    spec = job["spec"]["template"]["spec"]
    (volume,) = (each for each in spec["volumes"] if "configMap" in each)
    data = cluster.api.get("ConfigMap", volume["configMap"]["name"])["data"]
    for name, text in data.items():
        (folder / name).write_text(text)
    command = [part.replace("$(PACKTRAIN_CONFIG)", str(folder)) for part in spec["containers"][0]["command"]]
    ended = subprocess.run(
        [sys.executable, *command[1:]], capture_output=True, text=True, timeout=120, check=False
    )
    pod.log(*ended.stdout.splitlines(), *ended.stderr.splitlines())
    pod.exit(ended.returncode)
    if ended.returncode:
        cluster.fail(job, "PodFailurePolicy")
    else:
        cluster.complete(job)


def train_well(site: Site) -> Callable[[Cluster, Object], None]:
    """A pod that trains to a good end."""

    def story(cluster: Cluster, job: Object) -> None:
        finish(site, cluster, job, start(cluster, job))

    return story


def start(cluster: Cluster, job: Object, node: str = "gpu-node-1") -> Pod:
    pod = cluster.pod(job)
    pod.run(node)
    pod.log(*TRAINING)
    return pod


def finish(site: Site, cluster: Cluster, job: Object, pod: Pod) -> None:
    pod.log(*ENDING)
    site.bucket.put("out/receipt.json", receipt(run_id_of(job)))
    pod.exit(0)
    cluster.complete(job)
