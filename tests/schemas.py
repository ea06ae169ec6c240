"""Whether manifests are what Kubernetes and JobSet take: by schemas alone, with unknown fields refused."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

SCHEMAS = Path(__file__).parent / "standins" / "schemas"
#: Minor versions that the library has, from the first with native sidecars.
VERSIONS = tuple(
    version
    for version in dict.fromkeys(kubernetes_validate.utils.all_versions())
    if int(version.split(".")[1]) >= 29
)


def check(manifest: dict[str, Any], version: str) -> None:
    """Raises where Kubernetes ``version`` would refuse the manifest, or drop a part of it."""
    if manifest["kind"] == "JobSet":
        jobset_validator().validate(manifest)
        job = manifest["spec"]["replicatedJobs"][0]["template"]
        # The Job inside is checked as a Job, too: in the schema of JobSet some of its parts are open.
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": job["spec"]}
        kubernetes_validate.validate(whole, version, strict=True)
    else:
        kubernetes_validate.validate(manifest, version, strict=True)


@functools.cache
def jobset_validator() -> Any:
    schema = json.loads((SCHEMAS / "jobset.v1alpha2.json").read_text())
    metadata = {"type": "object", "required": ["name"]}
    whole = closed(schema | {"properties": schema["properties"] | {"metadata": metadata}})
    jsonschema.Draft202012Validator.check_schema(whole)
    return jsonschema.Draft202012Validator(whole)


def closed(schema: Any) -> Any:
    """An OpenAPI schema of a CRD as JSON Schema that refuses what the API server would silently drop."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        key: {name: closed(each) for name, each in value.items()} if key == "properties" else closed(value)
        for key, value in schema.items()
    }
    if found.get("x-kubernetes-int-or-string"):
        return {key: value for key, value in found.items() if key != "type"}
    open_to_all = found.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in found
    if "properties" in found and not open_to_all:
        found["additionalProperties"] = False
    return found
