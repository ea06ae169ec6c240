"""One container of a rendered pod as a process of this machine: what the kubelet would make of it.

Environment, ``$(VAR)``, ConfigMaps, Secrets and volumes are resolved by Kubernetes' own rules. A process
has no root file system of its own, so a path below a mount becomes a folder of the rehearsal wherever an
environment variable names it; all that changes is kept as a list of differences.
https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packtrain.errors import ConfigError

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][\w.-]*)\)")
_KEYED = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


@dataclass(frozen=True)
class Difference:
    """One thing that a rehearsal does otherwise than the cluster."""

    what: str
    """Such as ``env PACKTRAIN_WORK``, ``volume work``, ``command``."""
    cluster: str
    here: str


@dataclass(frozen=True)
class Identity:
    """What controllers give to a pod that they make."""

    name: str
    namespace: str
    uid: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    def field_path(self, path: str) -> str:
        """As the downward API resolves it: a label that is not there is empty."""
        if match := _KEYED.fullmatch(path):
            return {"labels": self.labels, "annotations": self.annotations}[match[1]].get(match[2], "")
        known = {"metadata.name": self.name, "metadata.namespace": self.namespace, "metadata.uid": self.uid}
        known |= {"status.podIP": "127.0.0.1", "status.hostIP": "127.0.0.1", "spec.nodeName": "rehearsal"}
        if path not in known:
            raise ConfigError(f"fieldPath {path}: is not known to the rehearsal")
        return known[path]


@dataclass(frozen=True)
class Resources:
    """What a pod finds in its namespace, by name."""

    config_maps: Mapping[str, Mapping[str, str]]
    secrets: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Changes:
    """What a rehearsal sets otherwise, on purpose."""

    environment: Mapping[str, str]
    """Replaces the manifest's values, or adds to them."""
    processes: int
    """Ranks in a pod."""


@dataclass(frozen=True)
class Process:
    """What is started."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    grace_seconds: int
    differences: tuple[Difference, ...]


@dataclass
class _Making:
    differences: list[Difference] = field(default_factory=list)

    def differs(self, what: str, cluster: str, here: str) -> None:
        self.differences.append(Difference(what, cluster, here))


def make_process(
    template: Mapping[str, Any],
    identity: Identity,
    resources: Resources,
    changes: Changes,
    folder: Path,
    job_environment: Mapping[str, str],
) -> Process:
    """The first container of a pod ``template``, with its volumes below ``folder``, which is new.

    ``job_environment``: what the Job controller adds. Errors: :class:`ConfigError` for what a kubelet
    would refuse: a ConfigMap, a Secret's key or a volume that is not there.
    """
    spec, making = template["spec"], _Making()
    container = spec["containers"][0]
    mounts = _mounts(spec, container, resources, folder, making)
    named: dict[str, str] = {}
    for variable in container.get("env", ()):
        value = _value(variable, identity, resources)
        if value is not None:
            named[variable["name"]] = expand(value, named)
    named |= job_environment
    environment: dict[str, str] = {}
    for name, value in named.items():
        environment[name] = _at_mount(value, mounts)
        if environment[name] != value:
            making.differs(f"env {name}", value, "in a folder of the rehearsal")
    for name, value in changes.environment.items():
        if environment.get(name) != value:
            making.differs(f"env {name}", named.get(name, "(the image's, or none)"), value or "(empty)")
        environment[name] = value
    environment["PATH"] = f"{_python(folder)}:/usr/local/bin:/usr/bin:/bin"
    making.differs("env PATH", "(the image's)", "this Python, as `python`")
    argv = [expand(each, environment) for each in (*container.get("command", ()), *container.get("args", ()))]
    argv = _fewer(argv, changes.processes, making)
    for other in (*spec.get("initContainers", ()), *spec["containers"][1:]):
        making.differs(f"container {other['name']}", "runs beside the trainer", "is not started")
    return Process(
        tuple(argv),
        environment,
        int(spec.get("terminationGracePeriodSeconds", 30)),
        tuple(making.differences),
    )


def expand(text: str, known: Mapping[str, str]) -> str:
    """``$(NAME)`` becomes its value where it is known and stays as it is where not; ``$$`` is a ``$``."""

    def one(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return known.get(match[1], match[0])

    return _REFERENCE.sub(one, text)


def _value(variable: Mapping[str, Any], identity: Identity, resources: Resources) -> str | None:
    source = variable.get("valueFrom")
    if source is None:
        return str(variable.get("value", ""))
    if "fieldRef" in source:
        return identity.field_path(source["fieldRef"]["fieldPath"])
    for kind, held in (("secretKeyRef", resources.secrets), ("configMapKeyRef", resources.config_maps)):
        if kind in source:
            reference = source[kind]
            found = held.get(reference["name"], {}).get(reference["key"])
            if found is None and not reference.get("optional"):
                raise ConfigError(
                    f"env {variable['name']}: {reference['name']} has no key {reference['key']}; "
                    "the pod would wait for it (CreateContainerConfigError)"
                )
            return found
    raise ConfigError(f"env {variable['name']}: {', '.join(source)} is not known to the rehearsal")


def _mounts(
    spec: Mapping[str, Any],
    container: Mapping[str, Any],
    resources: Resources,
    folder: Path,
    making: _Making,
) -> list[tuple[str, Path]]:
    """Paths in the container and their folders here, the longest first."""
    volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
    found: dict[str, Path] = {}
    mounts = []
    for mount in container.get("volumeMounts", ()):
        name, path = mount["name"], mount["mountPath"]
        if name not in volumes:
            raise ConfigError(f"volumeMount {path}: there is no volume {name}")
        if name not in found:
            found[name] = _volume(volumes[name], resources, folder / "volumes" / name)
            kind = next(key for key in volumes[name] if key != "name")
            making.differs(f"volume {name}", f"{kind} at {path}", "a folder of the rehearsal")
        mounts.append((path, found[name]))
    return sorted(mounts, key=lambda mount: -len(mount[0]))


def _volume(volume: Mapping[str, Any], resources: Resources, folder: Path) -> Path:
    folder.mkdir(parents=True)
    if "configMap" in volume:
        name = volume["configMap"]["name"]
        if name not in resources.config_maps:
            raise ConfigError(f"volume {volume['name']}: there is no ConfigMap {name}")
        for key, content in resources.config_maps[name].items():
            (folder / key).write_text(content, encoding="utf-8")
    if "hostPath" in volume:
        # What GKE has on the node for NCCL: its settings, which no rehearsal can need.
        for settings in ("lib64/nccl-env-profile.sh", "scripts/set_nccl_env.sh"):
            (folder / settings).parent.mkdir()
            (folder / settings).touch()
    return folder


def _at_mount(value: str, mounts: Sequence[tuple[str, Path]]) -> str:
    for path, folder in mounts:
        if value == path or value.startswith(f"{path}/"):
            return f"{folder}{value[len(path) :]}"
    return value


def _python(folder: Path) -> Path:
    """A folder for PATH in which ``python`` is this one: a link would not find its packages."""
    place = folder / "bin"
    place.mkdir(parents=True)
    script = place / "python"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    script.chmod(0o755)
    return place


def _fewer(argv: list[str], processes: int, making: _Making) -> list[str]:
    """The same command with ``processes`` ranks."""
    if "--processes" not in argv:
        return argv
    place = argv.index("--processes") + 1
    if argv[place] != str(processes):
        making.differs("command --processes", argv[place], str(processes))
    return [*argv[:place], str(processes), *argv[place + 1 :]]
