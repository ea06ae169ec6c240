"""From what a user calls an adapter, or a model, to a folder with one, and to its base.

A folder, a run's folder, a run file or ``gs://…``.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packtrain.artifacts.adapter_files import CONFIG, WEIGHTS
from packtrain.artifacts.model_files import CONFIG as MODEL_CONFIG
from packtrain.artifacts.receipt import RECEIPT, Receipt
from packtrain.config import ModelConfig, RunConfig
from packtrain.errors import ConfigError, PacktrainError
from packtrain.model.folder import check_folder
from packtrain.rundir import RunDir


@dataclass(frozen=True)
class LocatedAdapter:
    folder: Path
    base: str | None
    """A hub id or a folder, which need not exist here; None for a model that no receipt says it of."""
    revision: str | None
    receipt: Receipt | None
    warnings: tuple[str, ...]
    """What differs from the receipt; the adapter may still load."""
    full: bool = False
    """A whole model, such as a full fine-tuning makes, rather than an adapter."""


def locate(adapter: str, download: Path) -> LocatedAdapter:
    """Find the adapter that ``adapter`` names; one in a bucket is fetched into ``download``.

    Raises ConfigError, naming what is missing, for what is no adapter.
    """
    if adapter.endswith((".yaml", ".yml")) and Path(adapter).expanduser().is_file():
        adapter = _of_run_file(Path(adapter).expanduser())
    if adapter.startswith("gs://"):
        from packtrain.artifacts.fetch import fetch
        from packtrain.storage import open_storage

        with closing(open_storage(adapter)) as source:
            fetch(source, download)
        folder = download
    else:
        folder = _folder(Path(adapter).expanduser())
    receipt, warnings = _receipt(folder)
    if not (folder / CONFIG).is_file():
        check_folder(folder, str(folder), weights=True)
        of = receipt.base if receipt else {}
        return LocatedAdapter(
            folder, of.get("identity"), of.get("revision"), receipt, tuple(warnings), full=True
        )
    config = _config(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise ConfigError(f"{folder}: is not an adapter's folder: {WEIGHTS} is not there")
    return LocatedAdapter(
        folder=folder,
        base=config["base_model_name_or_path"],
        revision=config.get("revision"),
        receipt=receipt,
        warnings=tuple(warnings),
    )


def base_config(located: LocatedAdapter, base: str | None) -> ModelConfig:
    """Where the adapter's base comes from: ``base`` if given, else what the adapter names.

    A folder that is not on this machine gives way to the receipt's source, such as ``pypi:PACKAGE``.
    Raises ConfigError where nothing is left.
    """
    if base is not None:
        # The pinned revision is one of the named base, and says nothing about another source.
        return ModelConfig(source=base, revision=located.revision if base == located.base else None)
    if located.base is None:
        raise ConfigError(
            f"{located.folder}: nothing says what its base is",
            hint="say where the base is: --base FOLDER, or --base HUB/ID",
        )
    named = Path(located.base)
    if not named.is_absolute() or named.is_dir():
        return ModelConfig(source=located.base, revision=located.revision)
    receipt = located.receipt.base if located.receipt else {}
    source, revision = receipt.get("source"), receipt.get("revision")
    if isinstance(source, str) and not Path(source).is_absolute():
        if source.startswith("pypi:") and "==" not in source and revision:
            source = f"{source}=={revision}"
        return ModelConfig(source=source)
    raise ConfigError(
        f"{located.folder}: its base, the folder {located.base}, is not on this machine",
        hint="say where the base is: --base FOLDER, or --base HUB/ID",
    )


def settings_of(adapter: str) -> RunConfig | None:
    """The settings that an adapter was trained with: of the run file, or of the run's folder; else None."""
    from packtrain.runfile import load

    if adapter.startswith("gs://"):
        return None
    path = Path(adapter).expanduser()
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return load(path).config
    for folder in (path, path.absolute().parent):
        run_dir = RunDir(folder)
        if run_dir.config_file.is_file() and (
            folder == path or path.absolute() == run_dir.adapter.absolute()
        ):
            return load(run_dir.config_file).config
    return None


def _of_run_file(path: Path) -> str:
    from packtrain.runfile import load

    return of_run(load(path, data=False).config)


def of_run(config: RunConfig) -> str:
    """The adapter of a run: in the run's folder here, else where it was published."""
    run_dir = RunDir(Path("runs") / config.name)
    if run_dir.adapter.is_dir() or config.output.uri is None:
        return str(run_dir.path)
    return config.output.uri


def _folder(path: Path) -> Path:
    if not path.exists():
        raise ConfigError(f"{path}: is not there", hint="name an adapter's folder, a run's folder or gs://…")
    if not path.is_dir():
        raise ConfigError(f"{path}: is a file; name the folder of the adapter")
    inside = RunDir(path).adapter
    folder = inside if inside.is_dir() and not (path / CONFIG).exists() else path
    if not (folder / CONFIG).is_file() and not (folder / MODEL_CONFIG).is_file():
        raise ConfigError(f"{folder}: is not an adapter's folder: {CONFIG} is not there")
    return folder


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
        base, kind = config["base_model_name_or_path"], config["peft_type"]
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: is not JSON as peft writes it ({error})") from error
    except KeyError as error:
        raise ConfigError(f"{path}: has no {error.args[0]}: not a file that peft wrote") from error
    if not isinstance(base, str) or not isinstance(kind, str):
        raise ConfigError(f"{path}: base_model_name_or_path and peft_type must be texts")
    return dict(config)


def _receipt(folder: Path) -> tuple[Receipt | None, list[str]]:
    """The receipt in the folder, or beside it as in a run's folder, and what differs from it."""
    inside = folder / RECEIPT
    path = inside if inside.is_file() else folder.parent / RECEIPT
    # Beside a folder of another name the file is another adapter's.
    if path != inside and folder.name != RunDir(folder.parent).adapter.name:
        return None, []
    if not path.is_file():
        return None, []
    try:
        receipt = Receipt.from_json(path.read_bytes(), str(path))
    except (PacktrainError, OSError) as error:
        return None, [str(error)]
    return receipt, receipt.problems(folder)
