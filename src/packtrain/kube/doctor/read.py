"""From paths to documents: files, folders, standard input; a run file becomes the manifests that it makes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from packtrain import runfile
from packtrain.config import config_hash
from packtrain.errors import ConfigError
from packtrain.kube.doctor.documents import Document, from_data, parse
from packtrain.kube.doctor.tree import Node

STDIN = "-"
_SUFFIXES = (".yaml", ".yml", ".json")
#: Of the files in a folder, those that can hold what rules judge. A file that is named is always read.
_OURS = re.compile(r"[\s{,\"](?:apiVersion|bindings|currentMasterVersion|machineType)\"?\s*:")
_LARGEST = 16 << 20
#: A run that is only looked at has no id yet.
_NO_RUN_ID = "0" * 26


def read(paths: Sequence[str], overrides: Sequence[str] = ()) -> list[list[Document]]:
    """Bundles of documents that are judged together: the named files as one, each file of a folder alone.

    Errors: :class:`~packtrain.errors.ConfigError` for a path that is not there or holds nothing, and for a
    run file that is wrong or cannot run in a cluster.
    """
    named: list[Document] = []
    bundles = [named]
    for path in paths:
        if path != STDIN and Path(path).is_dir():
            found = list(_of_folder(Path(path)))
            bundles += found
        else:
            found = [parse(sys.stdin.read(), "<stdin>") if path == STDIN else _of_file(Path(path), overrides)]
            named += found[0]
        if not any(found):
            where = "standard input" if path == STDIN else path
            raise ConfigError(f"{where}: holds nothing to judge: no manifest, node pool, cluster or policy")
    return bundles


def _of_folder(folder: Path) -> Iterator[list[Document]]:
    for path in sorted(folder.rglob("*")):
        hidden = any(
            part.startswith(".") or part == "node_modules" for part in path.relative_to(folder).parts
        )
        if path.suffix in _SUFFIXES and path.is_file() and not hidden and path.stat().st_size <= _LARGEST:
            text = path.read_text(encoding="utf-8-sig", errors="replace")
            if _OURS.search(f"\n{text}"):
                yield parse(text, str(path))


def _of_file(path: Path, overrides: Sequence[str]) -> list[Document]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return [Document(str(path), Node(None), unreadable="it is not UTF-8 text")]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    documents = parse(text, str(path))
    if len(documents) == 1 and _is_run_file(documents[0]):
        return _rendered(path, overrides)
    return documents


def _is_run_file(document: Document) -> bool:
    root = document.root
    return not document.is_object and all(isinstance(root[key].value, dict) for key in ("model", "data"))


def _rendered(path: Path, overrides: Sequence[str]) -> list[Document]:
    from packtrain.gcp.image.reference import image_reference
    from packtrain.kube.launch import Launch
    from packtrain.kube.manifests import render
    from packtrain.kube.preflight import render_preflight

    config = runfile.load(path, overrides).config
    launch = Launch(
        config=config,
        run_yaml=runfile.dump(config),
        run_id=_NO_RUN_ID,
        image=image_reference(config),
        config_hash=config_hash(config),
    )
    manifests = [*render(launch), *render_preflight(launch)]
    return [document for each in manifests for document in from_data(each, f"{path} (rendered)")]
