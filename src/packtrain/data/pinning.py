"""Which commit a data set of the hub is read at: a revision belongs to one repository alone."""

from __future__ import annotations

from packtrain.config import DataConfig, source_names
from packtrain.data.remote import HubId


def repositories(sources: object) -> set[str]:
    """The data sets of the hub that ``data.train`` or ``data.validation`` names."""
    named = [HubId.parse(each) for each in source_names(sources)]
    return {each.repository for each in named if each is not None}


def named_sources(config: DataConfig) -> list[tuple[str, str | None]]:
    """Every source of training and validation, each once, and the revision that the run file gives it."""
    if config.mixture:
        found = [(item.source, item.revision) for item in config.mixture]
    else:
        found = [(name, config.revision) for name in source_names(config.train)]
    known = {name for name, _ in found}
    held_out = [name for name in source_names(config.validation) if name not in known]
    return list(dict.fromkeys([*found, *((name, validation_revision(config, name)) for name in held_out)]))


def validation_revision(config: DataConfig, source: object) -> str | None:
    """That of training, where both are of one repository; another one has no such commit."""
    ours = repositories(source)
    if not config.mixture:
        return config.revision if ours <= repositories(config.train) else None
    pinned = {item.revision for item in config.mixture if item.revision and ours & repositories(item.source)}
    return pinned.pop() if len(ours) == 1 and len(pinned) == 1 else None
