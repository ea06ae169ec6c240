"""The part of the stand-in for Google Cloud that has quotas, machine types and networks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from standins.google_cloud import GoogleCloud

Json = dict[str, Any]
MADE = re.compile(r"projects/[^/]+/(?:global|regions/[^/]+)/(?:networks|subnetworks|firewalls)")


def compute(cloud: GoogleCloud, method: str, path: str, body: Json) -> Json:  # noqa: PLR0911  (a return a case)
    from standins.google_cloud import Answer

    if "/operations/" in path:
        return _done(cloud, path)
    region = re.fullmatch(r"projects/[^/]+/regions/([^/]+)", path)
    if region:
        quotas = [{"metric": name, "limit": limit, "usage": 0.0} for name, limit in cloud.quotas.items()]
        return {"kind": "compute#region", "name": region[1], "status": "UP", "quotas": quotas}
    if path.endswith("/aggregated/machineTypes"):
        items = {
            f"zones/{zone}": {"machineTypes": [{"name": name, "zone": zone}]}
            for name, zones in cloud.zones.items()
            for zone in zones
        }
        return {"kind": "compute#machineTypeAggregatedList", "items": items}
    if method == "POST" and MADE.fullmatch(path):
        name = f"{path}/{body['name']}"
        if name in cloud.networks:
            raise Answer(409, f"The resource '{name}' already exists", "alreadyExists")
        cloud.networks[name] = {**body, "selfLink": f"{cloud.url}/compute/v1/{name}"}
        return _done(cloud, _operation(path), name)
    if method == "GET" and MADE.fullmatch(path):
        mine = [each for name, each in sorted(cloud.networks.items()) if name.startswith(f"{path}/")]
        return {"kind": "compute#list", "items": mine}
    if path not in cloud.networks:
        raise Answer(404, f"The resource '{path}' was not found", "notFound")
    if method == "DELETE":
        del cloud.networks[path]
        return _done(cloud, _operation(path.rpartition("/")[0]), path, "delete")
    return cloud.networks[path]


def _operation(path: str) -> str:
    return path.rpartition("/")[0] + "/operations/operation-1"


def _done(cloud: GoogleCloud, path: str, target: str = "", kind: str = "insert") -> Json:
    at = f"{cloud.url}/compute/v1/"
    region = re.search(r"/regions/([^/]+)/", path)
    where = {"region": f"{at}projects/p/regions/{region[1]}"} if region else {}
    return {
        "kind": "compute#operation",
        "name": "operation-1",
        "status": "DONE",
        "selfLink": at + path,
        "targetLink": at + target,
        "operationType": kind,
        "progress": 100,
        **where,
    }
