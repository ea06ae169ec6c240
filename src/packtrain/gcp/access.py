"""The steps that give one right on one thing: to the run's account on its bucket, to the nodes on the images.

Who gave a right is written on the Kubernetes service account before it is given, as an annotation:
policies have no labels, and ``destroy`` on any machine must know what is packtrain's to take back.
"""

from __future__ import annotations

import hashlib

from packtrain.gcp.ask import ask
from packtrain.gcp.commands import Command, Runner
from packtrain.gcp.looks import cluster_is_there, describe, filled, list_pools, members, service_account
from packtrain.gcp.site import BUCKET_ROLE, BUILD_ACCOUNT, PROJECT_NUMBER, READER_ROLE, Repository, Site
from packtrain.gcp.steps import Seen, Step, Undo

GIVEN = "packtrain.dev/gave-"
IMAGE_ROLE = "roles/artifactregistry.reader"
BUILD_ROLE = "roles/artifactregistry.writer"
IDENTITY_ROLE = "roles/iam.workloadIdentityUser"
DEFAULT_NODES = f"serviceAccount:${PROJECT_NUMBER}-compute@developer.gserviceaccount.com"
BUILDER = f"serviceAccount:${BUILD_ACCOUNT}"


def bucket_access(site: Site, bucket: str, member: str, *, read_only: bool = False) -> Step:
    role = READER_ROLE if read_only else BUCKET_ROLE
    who = "the pods" if member == site.principal else "the IAM service account"
    reason = "reads the data or the model" if read_only else "writes checkpoints and the adapter"
    return _step(
        site,
        f"{'bucket' if member == site.principal else 'account'}-access.{bucket}",
        f"{role} on gs://{bucket} for {who}",
        f"the run {reason}; on this bucket alone, never on the project",
        ("storage", "buckets"),
        (f"gs://{bucket}",),
        member,
        role,
    )


def identity_access(site: Site) -> Step:
    """The classical way: the Kubernetes service account may act as the IAM service account."""
    return _step(
        site,
        "identity-access",
        f"{IDENTITY_ROLE} on {site.google_account}",
        "the pods' account acts as the IAM service account",
        ("iam", "service-accounts"),
        (site.google_account, site.in_project),
        f"serviceAccount:{site.workload_pool}[{site.namespace}/{site.service_account}]",
        IDENTITY_ROLE,
    )


def image_access(site: Site, repository: Repository) -> Step:
    """The nodes pull the image: their account, not the pods'."""

    def nodes(runner: Runner) -> tuple[str, ...]:
        if ask(runner, describe(site)) is None:
            return (DEFAULT_NODES,)
        pools = ask(runner, list_pools(site)) or []
        accounts = {(pool.get("config") or {}).get("serviceAccount") or "default" for pool in pools}
        named = sorted(each for each in accounts if each != "default")
        default = (DEFAULT_NODES,) if "default" in accounts or not named else ()
        return (*default, *(f"serviceAccount:{each}" for each in named))

    argument = (repository.name, *repository.flags)
    title = f"{IMAGE_ROLE} on {repository.name} for the nodes"
    words = ("artifacts", "repositories")

    def look(runner: Runner, _: bool) -> Seen:
        has = members(ask(runner, _policy(words, argument)), IMAGE_ROLE)
        wanted = nodes(runner)
        lacking = [each for each in wanted if filled(runner, site, each) not in has]
        if lacking:
            left = [c for each in lacking for c in _give(site, words, argument, each, IMAGE_ROLE)]
            return Seen("make", "is not given", remaining=tuple(left))
        given = [each for each in wanted if _was_given(runner, site, argument[0], each, IMAGE_ROLE)]
        return Seen("there", "is given", ours=len(given) == len(wanted))

    def undo(runner: Runner, seen: Seen) -> Undo:
        wanted = nodes(runner)
        return _undo(seen, tuple(_take(words, argument, each, IMAGE_ROLE) for each in wanted))

    return Step(
        "image-access",
        title,
        "the nodes pull the image; on this repository alone",
        look,
        _give(site, words, argument, DEFAULT_NODES, IMAGE_ROLE),
        undo,
    )


def build_access(site: Site, repository: Repository) -> tuple[Step, Step]:
    """Cloud Build pushes the image, and reads what it is built from. Its log needs no right: see
    ``image/cloudbuild.yaml``."""
    push = _step(
        site,
        "build-access",
        f"{BUILD_ROLE} on {repository.name} for Cloud Build",
        "packtrain image build pushes the image; on this repository alone",
        ("artifacts", "repositories"),
        (repository.name, *repository.flags),
        BUILDER,
        BUILD_ROLE,
    )
    read = _step(
        site,
        "build-source",
        f"{READER_ROLE} on gs://{site.build_bucket} for Cloud Build",
        "reads what the image is built from; on this bucket alone",
        ("storage", "buckets"),
        (f"gs://{site.build_bucket}",),
        BUILDER,
        READER_ROLE,
    )
    return push, read


def _step(
    site: Site, key: str, title: str, reason: str, words: tuple[str, str], argument: tuple[str, ...],
    member: str, role: str,
) -> Step:  # fmt: skip
    def look(runner: Runner, _: bool) -> Seen:
        has = members(ask(runner, _policy(words, argument)), role)
        if filled(runner, site, member) not in has:
            return Seen("make", "is not given")
        return Seen("there", "is given", ours=_was_given(runner, site, argument[0], member, role))

    def undo(_: Runner, seen: Seen) -> Undo:
        return _undo(seen, (_take(words, argument, member, role),))

    return Step(key, title, reason, look, _give(site, words, argument, member, role), undo)


def _undo(seen: Seen, commands: tuple[Command, ...]) -> Undo:
    if seen.state == "make":
        return Undo("gone", "is not given")
    if seen.ours:
        return Undo("remove", "given by packtrain", commands)
    by_hand = commands[0].shown().replace(" \\\n ", "")
    return Undo("leave", f"was not given by packtrain, as far as is known; by hand: {by_hand}")


def _policy(words: tuple[str, str], argument: tuple[str, ...]) -> Command:
    return Command(("gcloud", *words, "get-iam-policy", *argument, "--format=json"))


def _give(
    site: Site, words: tuple[str, str], argument: tuple[str, ...], member: str, role: str
) -> tuple[Command, ...]:
    note = f"{annotation(argument[0], member, role)}={role} on {argument[0]}"
    account = ("serviceaccount", site.service_account, f"--namespace={site.namespace}")
    return (
        Command(("kubectl", "annotate", *account, "--overwrite", note)),
        _bind("add", words, argument, member, role),
    )


def _take(words: tuple[str, str], argument: tuple[str, ...], member: str, role: str) -> Command:
    return _bind("remove", words, argument, member, role)


def _bind(verb: str, words: tuple[str, str], argument: tuple[str, ...], member: str, role: str) -> Command:
    argv = ("gcloud", *words, f"{verb}-iam-policy-binding", *argument, f"--member={member}", f"--role={role}")
    # A policy that has conditions elsewhere makes gcloud ask which is meant.
    values = tuple(name for name in (PROJECT_NUMBER, BUILD_ACCOUNT) if f"${name}" in member)
    return Command((*argv, "--condition=None"), values=values)


def annotation(resource: str, member: str, role: str) -> str:
    """The key of a right in the record: of at most 63 characters, so a digest."""
    return GIVEN + hashlib.sha256(f"{role} {resource} {member}".encode()).hexdigest()[:12]


def _was_given(runner: Runner, site: Site, resource: str, member: str, role: str) -> bool:
    if not cluster_is_there(runner, site):
        return False
    account = service_account(runner, site) or {}
    notes = (account.get("metadata") or {}).get("annotations") or {}
    return annotation(resource, member, role) in notes
