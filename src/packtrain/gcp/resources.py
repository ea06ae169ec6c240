"""The steps in the project: services, the bucket, the image repository, the IAM service account."""

from __future__ import annotations

from packtrain.gcp.ask import ask
from packtrain.gcp.commands import MAKING, Command, Runner
from packtrain.gcp.site import Repository, Site
from packtrain.gcp.steps import LABEL, Seen, Step, Undo, remove_if_ours

#: What is used, and for what. https://cloud.google.com/kubernetes-engine/docs/how-to/workload-identity
SERVICES = {
    "artifactregistry.googleapis.com": "images",
    "cloudbuild.googleapis.com": "packtrain image build",
    "cloudresourcemanager.googleapis.com": "the project's number and rights",
    "compute.googleapis.com": "nodes, quotas, networks",
    "container.googleapis.com": "the cluster",
    "iam.googleapis.com": "accounts",
    "iamcredentials.googleapis.com": "tokens of pods",
    "storage.googleapis.com": "the bucket",
    "sts.googleapis.com": "tokens of pods",
}


def services_step(site: Site) -> Step:
    make = Command(("gcloud", "services", "enable", *SERVICES, site.in_project))
    listing = Command(
        ("gcloud", "services", "list", "--enabled", site.in_project, "--format=json(config.name)")
    )

    def look(runner: Runner, _: bool) -> Seen:
        found = {each["config"]["name"] for each in ask(runner, listing) or []}
        missing = [name for name in SERVICES if name not in found]
        if not missing:
            return Seen("there", f"{len(SERVICES)} enabled")
        if len(missing) == len(SERVICES):
            return Seen("make", "none is enabled")
        left = Command(("gcloud", "services", "enable", *missing, site.in_project))
        short = ", ".join(name.partition(".")[0] for name in missing)
        return Seen("make", f"not enabled: {short}", remaining=(left,))

    def undo(_: Runner, seen: Seen) -> Undo:
        return Undo("leave", "enabled services cost nothing, and others may use them")

    return Step(
        "services", "services (APIs) of Google Cloud", "what the steps below use", look, (make,), undo, 600
    )


def bucket_step(site: Site, bucket: str, *, delete_data: bool) -> Step:
    """A bucket that the run writes to, or the one from which Cloud Build builds."""
    uri, builds = f"gs://{bucket}", bucket == site.build_bucket
    create = Command(
        (
            "gcloud", "storage", "buckets", "create", uri, site.in_project, f"--location={site.region}",
            "--uniform-bucket-level-access", "--public-access-prevention",
        )
    )  # fmt: skip
    # `create` has no flag for labels.
    label = Command(("gcloud", "storage", "buckets", "update", uri, f"--update-labels={LABEL}"))
    described = Command(("gcloud", "storage", "buckets", "describe", uri, "--format=json"))

    def look(runner: Runner, unfinished: bool) -> Seen:
        found = ask(runner, described)
        if found is None:
            return Seen("make", "is not there")
        ours = (found.get("labels") or {}).get("managed-by") == "packtrain"
        if unfinished and not ours:
            return Seen("make", "is made, and its label is left", remaining=(label,))
        if not found.get("uniform_bucket_level_access"):
            return Seen(
                "differs",
                "has no uniform bucket-level access, without which a pod's account gets no right on it",
                f"switch it on, if nobody uses its ACLs: gcloud storage buckets update {uri}"
                " --uniform-bucket-level-access",
                True,
                ours,
            )
        if found.get("public_access_prevention") != "enforced":
            fix = f"gcloud storage buckets update {uri} --public-access-prevention"
            return Seen("differs", "may be made public", f"forbid it: {fix}", False, ours)
        where = str(found.get("location", "")).lower()
        if where != site.region and not builds:  # gcloud itself makes that one anywhere
            return Seen(
                "differs",
                f"is in {where}, the cluster in {site.region}: slower, and traffic between them is paid",
                "another bucket in output.uri is made in the cluster's region",
                False,
                ours,
            )
        return Seen("there", f"in {where}, uniform access, never public", ours=ours)

    def undo(runner: Runner, seen: Seen) -> Undo:
        if seen.state == "make":
            return Undo("gone", "is not there")
        if not seen.ours:
            return Undo("leave", f"was not made by packtrain (it has no label {LABEL})")
        inside = runner.run(Command(("gcloud", "storage", "ls", uri))).stdout.split()
        if inside and not delete_data:
            return Undo("leave", "has objects; --delete-data deletes them and it")
        if inside:
            remove = Command(("gcloud", "storage", "rm", "--recursive", uri))
            return Undo("remove", "made by packtrain, WITH ALL OBJECTS IN IT", (remove,))
        remove = Command(("gcloud", "storage", "buckets", "delete", uri))
        return Undo("remove", "made by packtrain, and empty", (remove,))

    return Step(
        "build-bucket" if builds else f"bucket.{bucket}",
        f"bucket {uri}",
        "what the image is built from, as gcloud uploads it"
        if builds
        else "checkpoints, events and the adapter; in the cluster's region, never public",
        look,
        (create, label),
        undo,
        MAKING,
    )


def repository_step(repository: Repository) -> Step:
    words = ("gcloud", "artifacts", "repositories")
    make = Command(
        (
            *words,
            "create",
            repository.name,
            *repository.flags,
            "--repository-format=docker",
            f"--labels={LABEL}",
        )
    )
    delete = Command((*words, "delete", repository.name, *repository.flags, "--quiet"))
    described = Command((*words, "describe", repository.name, *repository.flags, "--format=json"))

    def look(runner: Runner, _: bool) -> Seen:
        found = ask(runner, described)
        if found is None:
            return Seen("make", "is not there")
        ours = (found.get("labels") or {}).get("managed-by") == "packtrain"
        if found.get("format") != "DOCKER":
            said = f"has the format {found.get('format')}, not DOCKER"
            return Seen("differs", said, "name another in cluster.image", True, ours)
        return Seen("there", f"in {repository.region}", ours=ours)

    return Step(
        "repository",
        f"image repository {repository.name} in {repository.region}",
        "has the trainer's image",
        look,
        (make,),
        remove_if_ours((delete,), ", with the images in it"),
        600,
    )


def google_account_step(site: Site) -> Step:
    words = ("gcloud", "iam", "service-accounts")
    make = Command(
        (
            *words, "create", site.service_account, site.in_project,
            "--display-name=packtrain", f"--description={LABEL}",
        )
    )  # fmt: skip
    delete = Command((*words, "delete", site.google_account, site.in_project, "--quiet"))
    described = Command((*words, "describe", site.google_account, site.in_project, "--format=json"))

    def look(runner: Runner, _: bool) -> Seen:
        found = ask(runner, described)
        if found is None:
            return Seen("make", "is not there")
        ours = found.get("description") == LABEL
        if found.get("disabled"):
            fix = f"gcloud iam service-accounts enable {site.google_account} {site.in_project}"
            return Seen("differs", "is disabled", f"enable it: {fix}", True, ours)
        return Seen("there", "has no key, and needs none", ours=ours)

    return Step(
        "google-account",
        f"IAM service account {site.google_account}",
        "the classical way to the bucket (--via-service-account)",
        look,
        (make,),
        remove_if_ours((delete,)),
    )
