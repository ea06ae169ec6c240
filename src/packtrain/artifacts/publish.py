"""Publishing an adapter so that a cut at any point leaves nothing that looks finished.

A prefix belongs to one run, by a claim: a small object that is created in one request, and only if
it is not there. The claim lists what its run has put, or is about to put, there, and it stays after
the end, so that one read tells another run that the prefix is taken. Then: the old receipt goes, the
files go up, the new receipt comes last, under preconditions. No receipt, not verified.
"""

from __future__ import annotations

import json
import shlex
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from packtrain.artifacts.receipt import RECEIPT, FileFacts
from packtrain.errors import ConflictError, StorageError
from packtrain.rundir import timestamp
from packtrain.storage import ObjectInfo, PreconditionError, Storage, is_bucket
from packtrain.storage.checksums import digests
from packtrain.storage.names import check_name

CLAIM = ".packtrain-claim.json"

#: Called with a file's name, the bytes of it that are there, and its size.
FileProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Claim:
    """Whose a prefix is."""

    run_id: str
    host: str
    created: str
    files: list[str]
    """What this run has put there or is about to; nothing else is ever overwritten or removed."""

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode()


def read_receipt(data: bytes, place: str) -> tuple[str, dict[str, FileFacts]]:
    """Run id and files of a receipt of any version; StorageError, naming ``place``, for anything else."""
    try:
        fields = json.loads(data)
        files = {
            check_name(str(name)): FileFacts(
                int(facts["bytes"]), str(facts["sha256"]).lower(), str(facts["crc32c"])
            )
            for name, facts in fields["files"].items()
        }
        run_id = str(fields["run_id"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{place}: is not a receipt ({error!r})") from error
    reserved = files.keys() & {RECEIPT, CLAIM}
    if reserved:
        raise StorageError(f"{place}: lists {min(reserved)}, which no receipt can list")
    return run_id, files


def publish(
    files: Mapping[str, Path],
    receipt: bytes,
    destination: Storage,
    run_id: str,
    *,
    on_progress: FileProgress | None = None,
) -> None:
    """Put ``files`` (name -> local file) and their ``receipt`` to ``destination``, all or nothing.

    Run again after a cut, it goes on: what is there already with the right checksum is not sent.
    Raises :class:`~packtrain.errors.ConflictError` where another run's adapter or claim is, or a file
    that no run of packtrain put there; :class:`~packtrain.errors.StorageError` where a local file is
    not what the receipt says; and what storage raises.
    """
    owner, expected = read_receipt(receipt, RECEIPT)
    assert owner == run_id, (owner, run_id)
    assert files.keys() == expected.keys(), (sorted(files), sorted(expected))
    _check_local(files, expected)
    claimed, finished = _claim(destination, run_id, expected, receipt)
    if finished and _all_there(destination, expected):
        return
    standing = destination.stat(RECEIPT)
    if standing is not None:
        destination.delete(RECEIPT, if_generation=standing.generation)
    put = {name: _send(destination, name, path, expected[name], on_progress) for name, path in files.items()}
    for stale in sorted(set(claimed.files) - expected.keys()):
        destination.delete(stale)
    for name, info in put.items():
        if destination.stat(name) != info:
            raise ConflictError(
                f"{destination.uri}/{name}: was changed by somebody else while it was published"
            )
    destination.write(RECEIPT, receipt, if_generation=0)


def check_free(destination: Storage, run_id: str) -> bytes | None:
    """This run's receipt, where it stands; nothing is written.

    Raises :class:`~packtrain.errors.ConflictError` where another run has this place. Asked before the work
    is done: :func:`publish` would refuse its result.
    """
    standing = _read(destination, RECEIPT)
    if destination.stat(CLAIM) is not None:
        claim = _read_claim(destination)
        if claim.run_id != run_id:
            raise _taken(destination, claim, standing)
    elif standing is not None and not _is_of(standing, run_id):
        raise _taken(destination, None, standing)
    return standing if standing is not None and _is_of(standing, run_id) else None


def _check_local(files: Mapping[str, Path], expected: Mapping[str, FileFacts]) -> None:
    for name, path in files.items():
        try:
            found = FileFacts(*digests(path))
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from error
        if found != expected[name]:
            raise StorageError(f"{path}: is not what the receipt says; it was changed after it was verified")


def _claim(
    destination: Storage, run_id: str, expected: Mapping[str, FileFacts], receipt: bytes
) -> tuple[Claim, bool]:
    """This run's claim, and whether this very receipt stands already."""
    standing = _read(destination, RECEIPT)
    info = destination.stat(CLAIM)
    if info is None:
        ours = standing is not None and _is_of(standing, run_id)
        if standing is not None and not ours:
            raise _taken(destination, None, standing)
        if not ours:
            _refuse_foreign(destination, expected)
        claim = Claim(run_id, socket.gethostname(), timestamp(), sorted(expected))
        try:
            destination.write(CLAIM, claim.to_json(), if_generation=0)
        except PreconditionError as error:
            raise _taken(destination, _read_claim(destination), None) from error
        return claim, standing == receipt
    claim = _read_claim(destination)
    if claim.run_id != run_id:
        raise _taken(destination, claim, standing)
    names = sorted({*claim.files, *expected})
    if names != claim.files:
        claim = Claim(run_id, claim.host, claim.created, names)
        destination.write(CLAIM, claim.to_json(), if_generation=info.generation)
    return claim, standing == receipt


def _read(destination: Storage, name: str) -> bytes | None:
    try:
        return destination.read(name)
    except FileNotFoundError:
        return None


def _read_claim(destination: Storage) -> Claim:
    place = f"{destination.uri}/{CLAIM}"
    try:
        fields = json.loads(destination.read(CLAIM))
        names = [check_name(str(name)) for name in fields["files"]]
        return Claim(str(fields["run_id"]), str(fields["host"]), str(fields["created"]), names)
    except FileNotFoundError as error:
        raise ConflictError(f"{place}: was there, and is gone: somebody else is at work here") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConflictError(
            f"{place}: is not a claim that this version of packtrain can read", hint=_ways_out(destination)
        ) from error


def _is_of(receipt: bytes, run_id: str) -> bool:
    try:
        return read_receipt(receipt, RECEIPT)[0] == run_id
    except StorageError:
        return False


def _refuse_foreign(destination: Storage, expected: Mapping[str, FileFacts]) -> None:
    """Files that somebody else put where ours would go are not overwritten."""
    for name, facts in expected.items():
        info = destination.stat(name)
        if info is not None and not _same(info, facts):
            raise ConflictError(
                f"{destination.uri}/{name}: is there already, and no run of packtrain put it there",
                hint="choose an output.uri that is empty",
            )


def _taken(destination: Storage, claim: Claim | None, receipt: bytes | None) -> ConflictError:
    if claim is None or (receipt is not None and _is_of(receipt, claim.run_id)):
        owner = f"run {claim.run_id}" if claim else "another run"
        what = f"holds the finished adapter of {owner}"
    else:
        what = (
            f"run {claim.run_id} (on {claim.host}, since {claim.created}) is publishing here, or was cut off"
        )
    return ConflictError(f"{destination.uri}: {what}", hint=_ways_out(destination))


def _ways_out(destination: Storage) -> str:
    remove = "gcloud storage rm -r" if is_bucket(destination.uri) else "rm -r"
    return (
        "choose another output.uri, let that run finish, or, if what is there is not needed any more,"
        f" remove it first: {remove} {shlex.quote(destination.uri)}"
    )


def _same(info: ObjectInfo | None, facts: FileFacts) -> bool:
    return info is not None and (info.size, info.crc32c) == (facts.bytes, facts.crc32c)


def _all_there(destination: Storage, expected: Mapping[str, FileFacts]) -> bool:
    return all(_same(destination.stat(name), facts) for name, facts in expected.items())


def _send(
    destination: Storage, name: str, path: Path, facts: FileFacts, on_progress: FileProgress | None
) -> ObjectInfo:
    def report(done: int) -> None:
        if on_progress:
            on_progress(name, done, facts.bytes)

    info = destination.stat(name)
    if info is None or not _same(info, facts):
        info = destination.upload(
            name, path, if_generation=info.generation if info else 0, on_progress=report
        )
        if not _same(info, facts):
            raise StorageError(f"{path}: was changed while it was published")
    report(facts.bytes)
    return info
