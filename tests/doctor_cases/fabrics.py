"""Cases of the rules on the GPUs' own networks without GPUDirect-TCPXO (PT611, PT612), and their pools."""

from __future__ import annotations

import json
from typing import Any

from doctor_cases.gcloud import pool
from doctor_cases.kit import DROP, NODE_JOB, NODE_POD, Case, jobset

ANNOTATIONS = (*NODE_JOB, "template", "metadata", "annotations")
INTERFACES = (*ANNOTATIONS, "networking.gke.io/interfaces")
RDMA, TCPX = {"machine": "a3-ultragpu-8g"}, {"machine": "a3-highgpu-8g"}
ON_HOST = ((*NODE_POD, "hostNetwork"), True)
CLAIMS = ((*NODE_POD, "resourceClaims"), [{"name": "rdma", "resourceClaimTemplateName": "all"}])
LABEL_ALONE = ((*NODE_POD, "nodeSelector", "node.kubernetes.io/instance-type"), DROP)


def listed(*networks: str, first: str = "default") -> tuple[tuple[str | int, ...], str]:
    entries = [
        {"interfaceName": f"eth{index}", "network": name} for index, name in enumerate((first, *networks))
    ]
    return INTERFACES, json.dumps(entries)


GPUS = [f"rdma-{index}" for index in range(8)]


def rdma_pool(*networks: tuple[str, str]) -> Any:
    named = [{"network": network, "subnetwork": subnetwork} for network, subnetwork in networks]
    edits = {
        "machineType": "a3-ultragpu-8g",
        "ephemeralStorageLocalSsdConfig": {"localSsdCount": 32},
    }
    return pool(
        *((("config", key), value) for key, value in edits.items()),
        (("config", "accelerators", 0, "acceleratorType"), "nvidia-h200-141gb"),
        (("networkConfig", "additionalNodeNetworkConfigs"), named),
    )


CARDS = [("rdma", f"rdma-{index}") for index in range(8)]

CASES: tuple[Case, ...] = (
    Case("PT611", jobset((ANNOTATIONS, DROP), **RDMA), jobset(**RDMA)),
    Case("PT611", jobset((INTERFACES, DROP), **TCPX), jobset((INTERFACES, DROP), ON_HOST, **TCPX)),
    Case(
        "PT611", jobset((INTERFACES, DROP), LABEL_ALONE, **TCPX), jobset((ANNOTATIONS, DROP), CLAIMS, **RDMA)
    ),
    Case("PT612", jobset(listed(*GPUS[:-1]), **RDMA), jobset(listed(*GPUS), **RDMA)),
    Case("PT612", jobset(listed(*GPUS[:-1], "rdma-0"), **RDMA), jobset(listed("gvnic-1", *GPUS), **RDMA)),
    Case(
        "PT612", jobset(listed("a", "b", "c", "d", "e"), **TCPX), jobset(listed("a", "b", "c", "d"), **TCPX)
    ),
    Case("PT612", jobset(listed("a", "b", "c", "d", first="e"), **TCPX), jobset(**TCPX)),
    Case("PT903", rdma_pool(*CARDS), rdma_pool(("gvnic", "gvnic"), *CARDS)),
    Case(
        "PT903", rdma_pool(("gvnic", "gvnic"), *CARDS[:-1], CARDS[0]), rdma_pool(("gvnic", "gvnic"), *CARDS)
    ),
)
