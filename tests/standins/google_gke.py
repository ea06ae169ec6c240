"""The part of the stand-in for Google Cloud that has clusters and node pools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from standins.google_cloud import GoogleCloud

Json = dict[str, Any]
VERSION = "1.33.5-gke.1201000"


def gke(cloud: GoogleCloud, method: str, path: str, body: Json) -> Json:  # noqa: PLR0911  (a return a case)
    from standins.google_cloud import Answer

    if "/operations" in path:
        return _done(path)
    if path.endswith("/serverConfig"):
        return {"defaultClusterVersion": VERSION, "validMasterVersions": [VERSION]}
    parent, _, rest = path.partition("/clusters")
    location = parent.rpartition("/")[2]
    if method == "POST" and not rest:
        cluster = body["cluster"]
        name = f"{parent}/clusters/{cluster['name']}"
        if name in cloud.clusters:
            raise Answer(409, f"Already exists: {name}.", "ALREADY_EXISTS")
        cloud.clusters[name] = {**a_cluster(cluster["name"], location), **cluster}
        for pool in cloud.clusters[name].get("nodePools", []):
            pool["status"] = "RUNNING"
        return _done(f"{parent}/operations/operation-1", f"{cloud.url}/v1/{name}")
    if not rest:  # asked by gcloud for its sentence about a cluster that is not there
        return {"clusters": list(cloud.clusters.values())}
    name, _, pool = f"{parent}/clusters{rest}".partition("/nodePools")
    if name not in cloud.clusters:
        said = f"Not found: {name}."
        raise Answer(404, said, "NOT_FOUND")
    if "/nodePools" in path:
        return _pools(cloud, method, name, pool.lstrip("/"), body)
    if method == "DELETE":
        del cloud.clusters[name]
        return _done(f"{parent}/operations/operation-2", f"{cloud.url}/v1/{name}")
    return cloud.clusters[name]


def _pools(cloud: GoogleCloud, method: str, cluster: str, name: str, body: Json) -> Json:
    from standins.google_cloud import Answer

    pools = cloud.clusters[cluster].setdefault("nodePools", [])
    operation = cluster.partition("/clusters")[0] + "/operations/operation-3"
    if method == "POST":
        pools.append({**body["nodePool"], "status": "RUNNING", "version": VERSION})
        target = f"{cloud.url}/v1/{cluster}/nodePools/{body['nodePool']['name']}"
        return _done(operation, target)
    if not name:
        return {"nodePools": pools}
    found: Json | None = next((pool for pool in pools if pool["name"] == name), None)
    if found is None:
        raise Answer(404, f"Not found: {cluster}/nodePools/{name}.", "NOT_FOUND")
    if method == "DELETE":
        pools.remove(found)
        return _done(operation, f"{cloud.url}/v1/{cluster}/nodePools/{name}")
    return found


def a_cluster(name: str, location: str, **more: Any) -> Json:
    """A cluster as GKE describes it."""
    return {
        "name": name,
        "location": location,
        "zone": location,
        "status": "RUNNING",
        "endpoint": "127.0.0.1",
        "masterAuth": {"clusterCaCertificate": "Y2E="},
        "currentMasterVersion": VERSION,
        "currentNodeVersion": VERSION,
        "nodePools": [],
        **more,
    }


def _done(name: str, target: str = "") -> Json:
    location = name.partition("/locations/")[2].partition("/")[0]
    return {
        "name": name.rpartition("/")[2],
        "status": "DONE",
        "targetLink": target,
        "zone": location,
        "location": location,
        "selfLink": name,
    }
