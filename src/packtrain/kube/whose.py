"""Whose a run's name is: new, going on, finished, or another run's; asked of the bucket and the cluster."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from packtrain.artifacts.publish import check_free
from packtrain.artifacts.receipt import RECEIPT, Receipt
from packtrain.config import RunConfig, config_hash, identity
from packtrain.errors import AccessError, ConflictError, PacktrainError
from packtrain.kube.api import Cluster, Object
from packtrain.kube.begin import run_file_of
from packtrain.kube.names import CONFIG_HASH, MANAGED_BY, RUN_FILE, RUN_ID_LABEL, RUN_LABEL
from packtrain.run.begin import check_settings
from packtrain.run.gate import COMMIT, with_revisions
from packtrain.run.mirror import claim_place, claim_run, find_run, read_identity, runs_uri
from packtrain.rundir import RunIdentity, timestamp
from packtrain.runfile import load
from packtrain.storage import Storage, open_storage


@contextmanager
def _place(config: RunConfig) -> Iterator[tuple[Storage, bool]]:
    """Where the run's identity lies, and whether that is the place of all runs of its name."""
    own = config.output.run_uri
    uri = own or runs_uri(config.output.uri, config.name)
    assert uri is not None, "check_for_cluster wants a bucket"
    with closing(open_storage(uri)) as storage:
        yield storage, own is None


def known_run(config: RunConfig) -> RunIdentity | None:
    """The run that has the name in the bucket. Errors: those of :class:`Storage`."""
    with _place(config) as (storage, shared):
        return find_run(storage) if shared else read_identity(storage)


def as_it_began(config: RunConfig, known: RunIdentity) -> RunConfig:
    """The run file with the commits that the run began with, where it names none itself.

    A branch has moved on, perhaps; the run has not. Errors: :class:`ConfigError` for other settings.
    """
    began = known.config.get("data") or {}
    items = began.get("train")
    before = [
        each.get("revision") if isinstance(each, dict) else None
        for each in (items if config.data.mixture and isinstance(items, list) else [began])
    ]
    mine = config.data.revisions
    if len(before) != len(mine):  # another data set, as is said below
        before = [None] * len(mine)
    model = _commit(config.model.revision) or (known.config.get("model") or {}).get("revision")
    data = [_commit(own) or earlier for own, earlier in zip(mine, before, strict=True)]
    config = with_revisions(config, model, data)
    check_settings(known, config, f"the name {config.name}")
    return config


def _commit(revision: str | None) -> str | None:
    return revision if COMMIT.fullmatch(revision or "") else None


def claim(config: RunConfig, run_id: str, *, new: bool) -> RunIdentity:
    """Make this the run of its name, unless there is one: then that one is returned.

    Without the right to write to the bucket from here the pod does it, with the same id.
    """
    mine = RunIdentity(config.name, run_id, config_hash(config), identity(config), timestamp())
    try:
        with _place(config) as (storage, shared):
            return claim_run(storage, mine, new=new) if shared else claim_place(storage, mine)
    except AccessError:
        if new:
            raise
        return mine


def receipt_of(config: RunConfig, run_id: str | None) -> Receipt | None:
    """The receipt of this very run, where its adapter is published.

    Errors: :class:`ConflictError` where the place holds another run's: it would be refused at the end, after
    all was paid.
    """
    uri = config.output.uri
    assert uri is not None
    with closing(open_storage(uri)) as storage:
        data = check_free(storage, run_id or "")
    return None if data is None else Receipt.from_json(data, f"{uri}/{RECEIPT}")


def check_ours(job: Object, name: str) -> str:
    """The run's id of a Job or JobSet. Errors: :class:`ConflictError` for one that is not packtrain's."""
    labels = job["metadata"].get("labels") or {}
    if labels.get("app.kubernetes.io/managed-by") != MANAGED_BY or labels.get(RUN_LABEL) != name:
        raise ConflictError(
            f"the {job['kind']} {name} in the cluster is not packtrain's",
            hint="give the run another name, or delete that one by hand",
        )
    return str(labels.get(RUN_ID_LABEL, "")).upper()


def of_job(job: Object, name: str, cluster: Cluster) -> RunIdentity:
    """The run of a Job or JobSet in the cluster, from its labels and its run file.

    Errors: :class:`ConflictError` for a job that is not packtrain's, or that has lost its run file.
    """
    run_id = check_ours(job, name)
    settings = _settings(cluster, job)
    if settings is None:
        raise ConflictError(
            f"the {job['kind']} {name} in the cluster has lost its run file",
            hint="packtrain cancel RUN takes it away; then submit again",
        )
    found = (job["metadata"].get("annotations") or {}).get(CONFIG_HASH, "")
    return RunIdentity(name, run_id, found, settings, job["metadata"].get("creationTimestamp", ""))


def _settings(cluster: Cluster, job: Object) -> dict[str, Any] | None:
    """What affects training, from the job's ConfigMap."""
    text = ((run_file_of(cluster, job) or {}).get("data") or {}).get(RUN_FILE)
    if text is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / RUN_FILE
        path.write_text(text)
        with suppress(PacktrainError):
            return identity(load(path).config)
    return None
