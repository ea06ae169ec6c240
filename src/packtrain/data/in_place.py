"""Data files in a bucket or on the hub that are read where they lie, a range at a time, and not copied.

What is read is one state of an object, by its generation, or one commit: it cannot change on the way.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from packtrain.data.ranged import Afar, ReadRange
from packtrain.data.remote import HubId, IsDataFile, bucket_choice, hub_choice, parsed_bucket
from packtrain.errors import ConfigError, UnavailableError
from packtrain.storage import ObjectInfo, Storage, open_storage
from packtrain.storage.retry import RetryPolicy


def bucket_in_place(uri: str, is_data_file: IsDataFile) -> list[tuple[str, Afar]]:
    """The data objects of ``uri`` by their URI. Errors: those of :func:`~.remote.bucket_choice`."""
    base, rest, wild = parsed_bucket(uri)
    storage = open_storage(base)  # kept open: it reads as long as the files are used
    return [
        (f"{base}/{info.name}", _object(storage, info))
        for info in bucket_choice(storage, uri, rest, wild, is_data_file)
    ]


def _object(storage: Storage, info: ObjectInfo) -> Afar:
    def read(start: int, count: int) -> bytes:
        try:
            return storage.read_range(info.name, start, count, info.generation)
        except FileNotFoundError as error:
            raise ConfigError(
                f"{storage.uri}/{info.name}: was replaced or removed while it was read",
                hint="keep data as it is while a run reads it",
            ) from error

    return Afar(info.size, f"crc32c {info.crc32c}", read)


def hub_in_place(
    identifier: HubId, revision: str | None, is_data_file: IsDataFile
) -> tuple[list[tuple[Path | Afar, str]], str]:
    """The files of a split and their paths in the repository, and the commit they are of.

    One that the cache has is read there; where the environment names a staged copy, that is read.
    Errors: those of :func:`~.remote.hub_files`.
    """
    from packtrain.hub.staged import STAGED, Pinned

    card, chosen, sizes = hub_choice(identifier, revision, is_data_file)
    pinned = Pinned(identifier.repository, card.commit, "dataset")
    staged = open_storage(pinned.place(os.environ[STAGED])) if os.environ.get(STAGED) else None

    def found(name: str) -> Path | Afar:
        if (card.folder / name).exists():
            return card.folder / name
        if staged is not None:
            info = staged.stat(f"files/{name}")
            if info is None:
                raise ConfigError(
                    f"{staged.uri}: {name} was not staged",
                    hint="run `packtrain stage RUN` with this run file, or remove cluster.staged",
                )
            return _object(staged, info)
        read = patient(partial(_hub_range, identifier.repository, card.commit, name), RetryPolicy())
        return Afar(sizes[name], f"{card.commit}/{name}", read)

    return [(found(name), name) for name in chosen], card.commit


def _hub_range(repository: str, commit: str, name: str, start: int, count: int) -> bytes:
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    from packtrain.hub.access import hub_errors

    url = hf_hub_url(repository, name, repo_type="dataset", revision=commit)
    headers = {**build_hf_headers(), "range": f"bytes={start}-{start + count - 1}"}
    with hub_errors(repository, repo_type="dataset", revision=commit):
        response = http_backoff("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
        hf_raise_for_status(response)
        data = bytes(response.content)
    if response.status_code == 200 and len(data) > count:  # a server that knows no ranges
        data = data[start : start + count]
    if len(data) != count:
        raise UnavailableError(f"{repository}/{name}: the Hugging Face hub sent {len(data)} bytes of {count}")
    return data


def patient(read: ReadRange, policy: RetryPolicy) -> ReadRange:
    """``read``, tried again within the limits of ``policy`` while a service is away."""

    def persistent(start: int, count: int) -> bytes:
        backoff = policy.start()
        while True:
            try:
                return read(start, count)
            except UnavailableError:
                if not backoff.wait():
                    raise

    return persistent
