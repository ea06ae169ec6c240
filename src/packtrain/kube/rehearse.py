"""``packtrain rehearse``: the run's rendered pods on this machine, undisturbed and with one taken away.

What is rendered is what ``packtrain submit`` would apply; a tiny base and a stand-in bucket take the
place of the big ones. What a rehearsal does otherwise than the cluster is in its report.
"""

from __future__ import annotations

import hashlib
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packtrain.artifacts.receipt import RECEIPT, Receipt
from packtrain.config import RunConfig, config_hash
from packtrain.errors import GateError, UsageError
from packtrain.gcp.image.reference import image_reference
from packtrain.kube.launch import Launch
from packtrain.kube.manifests import render
from packtrain.kube.names import TOKEN_KEY, TOKEN_SECRET
from packtrain.kube.preflight import render_preflight
from packtrain.kube.rehearsal.bucket import NAME, Bucket
from packtrain.kube.rehearsal.cluster import Cluster, Preemption, Story, failure_error, free_port
from packtrain.kube.rehearsal.kubelet import Changes, Difference
from packtrain.kube.rehearsal.small import STEPS, Small, make_small
from packtrain.kube.spec import Manifest
from packtrain.run.preflight import PATIENCE
from packtrain.rundir import new_run_id
from packtrain.runfile import dump

#: Seconds that Spot leaves to a pod between SIGTERM and SIGKILL.
SPOT_GRACE = 15.0
#: Where a rehearsed preemption comes: some steps after the first checkpoint.
STRIKE_AFTER = STEPS // 4
#: So many runs, where one is over before its pod is hit.
ATTEMPTS = 3
Say = Callable[[str], None]

#: What no process of this machine shows of a pod; told, for nothing here changes by it.
NOT_REHEARSED = (
    Difference("GPUs", "CUDA and NCCL", "CPU and gloo"),
    Difference("container", "the image, read-only, as user 1000", "this Python environment, as you"),
    Difference("resources", "requests, limits and /dev/shm's size", "this machine's, shared by all pods"),
    Difference("node", "selected, tolerated, waited for", "this machine, at once"),
    Difference("network", "an address for each pod, GPUDirect", "all pods at 127.0.0.1"),
    Difference("identity", "Workload Identity, IAM", "a bucket that lets anybody in"),
    Difference("controllers", "queue, back-off, deadline, TTL", "none of them; policies as they are"),
)


@dataclass(frozen=True)
class Result:
    """One run of the rendered workload to a good end."""

    story: Story
    weights: str
    """SHA-256 over the published weights."""
    seconds: float


@dataclass(frozen=True)
class Rehearsal:
    """What was rehearsed, and how it went."""

    name: str
    kind: str
    machine: str
    nodes: int
    ranks: int
    """In each pod."""
    undisturbed: Result
    preempted: Result | None
    changes: dict[str, str]
    """Of the run file: keys, and what stood for them."""
    differences: tuple[Difference, ...]
    """Of the pods."""

    @property
    def equal(self) -> bool:
        return self.preempted is None or self.preempted.weights == self.undisturbed.weights

    def verdict(self) -> str:
        """One sentence."""
        seconds = self.undisturbed.seconds + (self.preempted.seconds if self.preempted else 0.0)
        said = f"Rehearsed in {seconds:.0f} s: the pods start, train and publish a verified adapter"
        if self.preempted is None:
            return f"{said}. With --preempt, one of them is taken away as well."
        story = self.preempted.story
        resumed = story.resumed_from()
        went_on = "began anew" if resumed is None else f"went on after step {resumed}"
        same = "the same to the bit" if self.equal else "ANOTHER ONE"
        return f"{said}. One taken away after step {story.struck_after} {went_on}; the adapter is {same}."

    def to_json(self) -> dict[str, Any]:
        runs = {"undisturbed": self.undisturbed, "preempted": self.preempted}
        return {
            "name": self.name,
            "kind": self.kind,
            "machine": self.machine,
            "nodes": self.nodes,
            "ranks": self.ranks,
            "equal": self.equal,
            "runs": {name: _run_json(result) for name, result in runs.items() if result is not None},
            "run_file": self.changes,
            "differences": [vars(each) for each in self.differences],
        }

    def check(self) -> None:
        """Errors: :class:`GateError` where the preempted run trained another adapter."""
        if not self.equal:
            raise GateError(
                "the run whose pod was taken away ended with other weights than the undisturbed one",
                hint="packtrain verify-resume shows at which moments a stop changes the result",
            )


def _run_json(result: Result) -> dict[str, Any]:
    story = result.story
    pods = [
        {"pod": each.pod.name, "exit_code": each.pod.exit_code, "action": each.action} for each in story.pods
    ]
    return {
        "seconds": round(result.seconds, 1),
        "weights": result.weights,
        "pods": pods,
        "restarts": story.restarts,
        "preempted_after_step": story.struck_after,
        "resumed_from": story.resumed_from(),
    }


def rehearse(
    config: RunConfig,
    *,
    preempt: bool = False,
    nodes: int | None = None,
    ranks: int | None = None,
    seconds: float = 600.0,
    say: Say = lambda line: None,
) -> Rehearsal:
    """Run the pods of ``config``, a resolved run file, in a temporary folder; nothing is left of them.

    ``nodes`` in place of ``cluster.nodes``; ``ranks`` in each pod (default: two for one node, so that
    they meet, and one for several); ``seconds`` for all of it. Errors: those of rendering; of the pod
    that made the workload fail, as its exit code says; :class:`GateError` for time that is over.
    """
    until = time.monotonic() + seconds
    if nodes is not None:
        config = config.model_copy(update={"cluster": config.cluster.model_copy(update={"nodes": nodes})})
    launch = launch_of(config)
    render(launch)  # the user's own run file, with all that can be wrong about it, before anything takes time
    ranks = ranks or min(launch.machine.gpus, 2 if config.cluster.nodes == 1 else 1)
    if ranks > launch.machine.gpus:
        raise UsageError(f"--ranks {ranks}: {launch.machine.name} has {launch.machine.gpus} GPUs")
    with tempfile.TemporaryDirectory(prefix="packtrain-rehearse-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        say("making a tiny base, and taking a few rows")
        small = make_small(config, folder)
        rehearsed = launch_of(small.config, launch.run_id, launch.image)
        stage = _Stage(rehearsed, small, ranks, folder, until, say)
        looked = stage.preflight()
        say("undisturbed")
        undisturbed = stage.run("undisturbed", None)
        preempted = None
        if preempt:
            say("once more, with a pod that is taken away")
            preempted = stage.run_preempted(Preemption(config.cluster.nodes - 1, STRIKE_AFTER, SPOT_GRACE))
    return Rehearsal(
        config.name,
        undisturbed.story.kind,
        launch.machine.name,
        config.cluster.nodes,
        ranks,
        undisturbed,
        preempted,
        small.changes,
        _each_once((*undisturbed.story.differences, *looked, *NOT_REHEARSED)),
    )


def _each_once(differences: Iterable[Difference]) -> tuple[Difference, ...]:
    """The preflight pod differs as the others do, but for ports, which are other ones in each rehearsal."""
    found: dict[tuple[str, str], Difference] = {}
    for each in differences:
        found.setdefault((each.what, each.cluster), each)
    return tuple(found.values())


def launch_of(config: RunConfig, run_id: str | None = None, image: str | None = None) -> Launch:
    """As submit makes it, but for the image's digest, which only a registry knows."""
    cluster = config.cluster
    if image is None and cluster.image is None and (cluster.project is None or cluster.location is None):
        image = "packtrain/trainer"  # no registry is named yet
    return Launch(
        config=config,
        run_yaml=dump(config),
        run_id=run_id or new_run_id(),
        image=image or image_reference(config),
        config_hash=config_hash(config),
    )


@dataclass(frozen=True)
class _Stage:
    """What both runs have in common."""

    launch: Launch
    small: Small
    ranks: int
    folder: Path
    until: float
    say: Say
    token: str = field(default_factory=lambda: f"hf_{secrets.token_hex(16)}", repr=False)
    """Of the Secret; to be found nowhere else."""

    def preflight(self) -> list[Difference]:
        """The pod that looks first; what it did otherwise than the cluster's.

        Errors: what it found, as if it had been found in the cluster.
        """
        self.say("the preflight pod looks first")
        with self._bucket() as bucket:
            before = set(bucket.below(""))
            # Rights are in force at once here: there is nothing to wait for.
            changes = Changes(self._environment(bucket) | {PATIENCE: "0"}, self.ranks)
            story = self._cluster(
                render_preflight(self.launch),
                changes,
                "preflight",
                lambda line: self.say(f"preflight: {line}"),
            ).run()
            left = set(bucket.below("")) - before
        if story.failure is not None:
            raise failure_error(story)
        if left:
            raise GateError(f"the preflight pod left gs://{NAME}/{min(left)} in the bucket")
        return story.differences

    def run_preempted(self, preemption: Preemption) -> Result:
        """Errors: :class:`GateError` where the run is over before its pod is hit, whenever it is tried."""
        for attempt in range(1, ATTEMPTS + 1):
            result = self.run(f"preempted-{attempt}", preemption)
            if any(each.pod.disrupted and each.pod.exit_code for each in result.story.pods):
                return result
            self.say("the run was over before its pod could be taken away")
        raise GateError("the run ended before its pod could be taken away", hint="run it again")

    def run(self, name: str, preemption: Preemption | None) -> Result:
        begun = time.monotonic()
        with self._bucket() as bucket:
            changes = Changes(self._environment(bucket) | self._meeting(), self.ranks)
            story = self._cluster(render(self.launch), changes, name, self.say, preemption).run()
            if story.failure is not None:
                raise failure_error(story)
            weights = _published(bucket)
            _kept_secret(self.token, bucket, self.folder / name)
        return Result(story, weights, time.monotonic() - begun)

    @contextmanager
    def _bucket(self) -> Iterator[Bucket]:
        with Bucket() as bucket:
            for key, data in self.small.objects.items():
                bucket.put(key, data)
            yield bucket

    def _cluster(
        self,
        manifests: list[Manifest],
        changes: Changes,
        name: str,
        say: Say,
        preemption: Preemption | None = None,
    ) -> Cluster:
        secret = {TOKEN_SECRET: {TOKEN_KEY: self.token}}
        folder = self.folder / name
        return Cluster(manifests, secret, changes, folder, self.until, say, preemption)

    def _environment(self, bucket: Bucket) -> dict[str, str]:
        return {
            "STORAGE_EMULATOR_HOST": bucket.url,
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "GLOO_SOCKET_IFNAME": "lo",
        }

    def _meeting(self) -> dict[str, str]:
        """Where several pods meet."""
        if self.launch.config.cluster.nodes == 1:
            return {}
        return {"PACKTRAIN_MASTER_ADDR": "127.0.0.1", "PACKTRAIN_MASTER_PORT": str(free_port())}


def _published(bucket: Bucket) -> str:
    """SHA-256 over the weights at ``output.uri``. Errors: :class:`GateError` unless they are as the
    receipt says."""
    files = bucket.below("final_model/")
    if RECEIPT not in files:
        raise GateError(f"the run ended well, and there is no receipt in gs://{NAME}/final_model")
    receipt = Receipt.from_json(files[RECEIPT])
    for name, facts in receipt.files.items():
        if hashlib.sha256(files.get(name, b"")).hexdigest() != facts.sha256:
            raise GateError(f"gs://{NAME}/final_model/{name} is not what the receipt says")
    weights = hashlib.sha256()
    for name in sorted(receipt.files):
        if name.endswith(".safetensors"):
            weights.update(files[name])
    return weights.hexdigest()


def _kept_secret(token: str, bucket: Bucket, folder: Path) -> None:
    """Errors: :class:`GateError` where the token of the rehearsal is in the bucket or on a disk."""
    word = token.encode()
    found = [f"gs://{NAME}/{name}" for name, data in bucket.below("").items() if word in data]
    found += [str(path) for path in folder.rglob("*") if path.is_file() and word in path.read_bytes()]
    if found:
        raise GateError(f"the Hugging Face token was written to {found[0]}")
