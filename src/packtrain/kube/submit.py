"""``packtrain submit``: from a run file to a job in the cluster, followed to its end.

Everything that can be known before a GPU costs anything is asked first. Each step can be cut and done
again: the same command goes on with what is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from packtrain.artifacts.receipt import Receipt
from packtrain.config import RunConfig, config_hash
from packtrain.errors import BY_EXIT_CODE, BugError, ConflictError, PacktrainError, StorageError
from packtrain.gcp.commands import Programs, Runner
from packtrain.gcp.image import image_reference
from packtrain.gcp.image.lookup import resolve_digest
from packtrain.kube import nodes, observe
from packtrain.kube.access import connect
from packtrain.kube.api import PATIENCE, Cluster, Object, kind_of
from packtrain.kube.asking import preflight
from packtrain.kube.begin import give, make, remove, run_file_of
from packtrain.kube.checks import check_for_cluster
from packtrain.kube.cost import budget_sentence, price_sentence
from packtrain.kube.follow import Observation, State, look
from packtrain.kube.launch import Launch
from packtrain.kube.manifests import render
from packtrain.kube.names import RUN_ID_LABEL
from packtrain.kube.observe import Pace, Say, Watching, find_job
from packtrain.kube.places import run_uri
from packtrain.kube.planning import plan_first
from packtrain.kube.whose import as_it_began, claim, known_run, of_job, receipt_of
from packtrain.run.gate import Check, checks, pin
from packtrain.run.outcome import gravity
from packtrain.rundir import RunIdentity, new_run_id
from packtrain.runfile import dump
from packtrain.storage.retry import RetryPolicy


@dataclass(frozen=True)
class Options:
    new: bool = False
    """Another run under this name."""
    preflight: bool = True
    plan: bool = True
    """Ask the planner first."""
    detach: bool = False
    """Come back when the job is made."""
    wait_limit: float | None = None
    """Seconds in a row that it may wait for nodes."""


@dataclass(frozen=True)
class World:
    """Where the effects go; tests have their own."""

    say: Say
    runner: Runner = field(default_factory=Programs)
    pace: Pace = field(default_factory=lambda: observe.PACE)
    patience: RetryPolicy = PATIENCE
    on_manifests: Callable[[list[Object]], None] = lambda manifests: None
    """Called with what is about to be made."""


def dry_run(config: RunConfig) -> Launch:
    """What would be submitted, without asking anybody: the image by its tag, revisions as they stand."""
    check_for_cluster(config)
    return make_launch(config, new_run_id(), image_reference(config))


def make_launch(config: RunConfig, run_id: str, image: str) -> Launch:
    cluster = config.cluster.model_copy(update={"image": image})
    config = config.model_copy(update={"cluster": cluster})
    return Launch(config, dump(config), run_id, image, config_hash(config))


@dataclass(frozen=True)
class Submitted:
    name: str
    run_id: str
    run_uri: str
    output_uri: str
    receipt: Receipt | None
    """None where the run goes on without us: with ``detach``, or after Ctrl-C."""

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "run_id": self.run_id,
            "run_uri": self.run_uri,
            "output_uri": self.output_uri,
            "state": "detached" if self.receipt is None else "finished",
            "metrics": self.receipt.metrics if self.receipt else None,
        }


def submit(config: RunConfig, options: Options, world: World) -> Submitted:
    """Make the job, or find it, and follow it.

    Errors: the run's own failure, by its exit code, and all that keeps it from beginning.
    """
    check_for_cluster(config)
    world.say(price_sentence(config))
    world.say(budget_sentence(config))
    known = None if options.new else known_run(config)
    if known is not None:
        config = as_it_began(config, known)
    receipt = receipt_of(config, known.run_id if known else None)
    if receipt is not None:
        world.say(f"The run {config.name} ({receipt.run_id}) is finished; --new starts another one.")
        return _submitted(config, receipt.run_id, receipt)
    with connect(config, world.runner, world.patience) as cluster:
        job = find_job(cluster, config.name)
        if job is not None:
            config, known, job = _found(cluster, job, config, known, options, world)
        if job is None:
            try:
                job = _begin(cluster, config, known, options, world)
            except KeyboardInterrupt:
                world.say("\nStopped before the run was seen to begin; the same command goes on from there.")
                raise
        if options.detach:
            world.say(f"The {job['kind']} {config.name} is in the cluster; {COME_BACK}")
            return _submitted(config, run_id_of(job), None)
        try:
            receipt = follow(cluster, job, config, options, world)
        except KeyboardInterrupt:
            world.say(f"\nDetached; the run goes on. {COME_BACK}")
            receipt = None
        return _submitted(config, run_id_of(job), receipt)


def _submitted(config: RunConfig, run_id: str, receipt: Receipt | None) -> Submitted:
    return Submitted(config.name, run_id, run_uri(config, run_id), str(config.output.uri), receipt)


def run_id_of(job: Object) -> str:
    return str(job["metadata"]["labels"][RUN_ID_LABEL]).upper()


COME_BACK = (
    "packtrain submit RUN follows it, packtrain logs RUN shows what it prints, packtrain cancel RUN stops it"
)


def _found(
    cluster: Cluster,
    job: Object,
    config: RunConfig,
    known: RunIdentity | None,
    options: Options,
    world: World,
) -> tuple[RunConfig, RunIdentity | None, Object | None]:
    """A job of this name is there: followed where it runs, taken away where it has ended."""
    theirs = of_job(job, config.name, cluster)
    state = look(Observation(job))
    if state.phase == "stopping":  # cancelled a moment ago
        world.say(f"The last {job['kind']} {config.name} is being deleted: that is waited for.")
        remove(cluster, kind_of(job), config.name)
        return config, known, None
    if options.new and not state.over:
        raise ConflictError(
            f"the {job['kind']} {config.name} of the run {theirs.run_id} is in the cluster and not over",
            hint="packtrain cancel RUN stops it, with its state saved",
        )
    if known is not None and theirs.run_id != known.run_id:
        raise ConflictError(
            f"the {job['kind']} {config.name} in the cluster is of the run {theirs.run_id}, and the bucket "
            f"says that {known.run_id} has the name",
            hint="packtrain cancel RUN takes it away",
        )
    if not options.new:
        known = known or theirs
        config = as_it_began(config, known)
    if not state.over:
        run_file = run_file_of(cluster, job)
        if run_file is not None:  # a submit may have been cut before it gave it away
            give(cluster, run_file, job)
        world.say(f"The run {config.name} ({theirs.run_id}) is in the cluster already: it is followed.")
        return config, known, job
    how = "ended" if state.phase == "succeeded" else f"failed ({state.detail})"
    world.say(f"The last {job['kind']} {config.name} {how}: it is taken away, and made again.")
    remove(cluster, kind_of(job), config.name)
    return config, known, None


def _begin(
    cluster: Cluster, config: RunConfig, known: RunIdentity | None, options: Options, world: World
) -> Object:
    answers = gate(config, world.say)
    if known is None:
        config = pin(config, answers)
    summary = plan_first(config, world.say) if options.plan else None
    image = resolve_digest(config, world.runner)
    world.say(f"image {image}")
    launch = make_launch(config, known.run_id if known else new_run_id(), image)
    launch = replace(launch, planned=summary.to_json() if summary else "")
    manifests = render(launch)
    if options.preflight:
        preflight(cluster, launch, world.say, world.pace)
    # As late as this: a run file that is not let in has not begun a run, and may still be changed.
    owner = known or claim(launch.config, launch.run_id, new=options.new)
    if owner.run_id != launch.run_id:
        # Two submitted at once, and the other was first.
        planned = launch.planned
        launch = replace(make_launch(as_it_began(launch.config, owner), owner.run_id, image), planned=planned)
        manifests = render(launch)
    world.on_manifests(manifests)
    job = make(cluster, manifests)
    world.say(f"The {job['kind']} {config.name} of the run {launch.run_id} is made.")
    return job


def gate(config: RunConfig, say: Say) -> list[Check]:
    """Model, data and bucket, asked from here. Errors: all that is refused, the gravest exit code."""
    answers = []
    for each in checks(config, write=False):
        answers.append(each)
        if each.error is None:
            at = f" at {each.commit[:12]}" if each.commit else ""
            say(f"{each.name} {each.subject}{at}: yours to use")
    failures = [each.error for each in answers if each.error is not None]
    if failures:
        worst = max(failures, key=lambda error: gravity(error.exit_code))
        raise type(worst)("\n".join(str(error) for error in failures), hint=worst.hint)
    return answers


def follow(cluster: Cluster, job: Object, config: RunConfig, options: Options, world: World) -> Receipt:
    """To the end; errors: the run's own failure."""
    watching = Watching(
        cluster,
        config.name,
        kind_of(job),
        config.name,
        world.say,
        wait_limit=options.wait_limit,
        pace=world.pace,
    )
    state = watching.to_end()
    world.say(nodes.sentence(nodes.gpu_nodes(cluster), cluster.name))
    failure = failure_of(state)
    if failure is not None:
        raise failure
    receipt = receipt_of(config, run_id_of(job))
    if receipt is None:
        raise StorageError(
            f"the job ended well, but its receipt is not in {config.output.uri}",
            hint="somebody may have removed it; packtrain logs RUN shows what was printed",
        )
    return receipt


def failure_of(state: State) -> PacktrainError | None:
    """The run's own failure, as if it had happened here."""
    if state.exit_code in (0, None):
        return None
    kind = BY_EXIT_CODE.get(int(state.exit_code or 0), BugError)
    again = "" if kind.retry == "no" else "; packtrain submit RUN goes on from the last checkpoint"
    hint = state.hint or "packtrain logs RUN shows what was printed"
    return kind(f"the run failed: {state.detail}", hint=hint + again)
