"""Cases of the rules on node pools, clusters and policies (PT9), as gcloud prints them."""

from __future__ import annotations

from typing import Any

from doctor_cases.kit import DROP, Case, edited

POOL: dict[str, Any] = {
    "name": "a3mega",
    "version": "1.35.2-gke.1000000",
    "status": "RUNNING",
    "initialNodeCount": 0,
    "autoscaling": {"enabled": True, "totalMaxNodeCount": 4, "locationPolicy": "ANY"},
    "management": {"autoRepair": True, "autoUpgrade": True},
    "networkConfig": {
        "additionalNodeNetworkConfigs": [
            {"network": f"vpc{index}", "subnetwork": f"subnet{index}"} for index in range(1, 9)
        ]
    },
    "config": {
        "machineType": "a3-megagpu-8g",
        "imageType": "COS_CONTAINERD",
        "spot": True,
        "serviceAccount": "nodes@my-project.iam.gserviceaccount.com",
        "oauthScopes": ["https://www.googleapis.com/auth/cloud-platform"],
        "accelerators": [
            {
                "acceleratorCount": "8",
                "acceleratorType": "nvidia-h100-mega-80gb",
                "gpuDriverInstallationConfig": {"gpuDriverVersion": "LATEST"},
            }
        ],
        "gvnic": {"enabled": True},
        "workloadMetadataConfig": {"mode": "GKE_METADATA"},
        "ephemeralStorageLocalSsdConfig": {"localSsdCount": 16},
        "reservationAffinity": {"consumeReservationType": "NO_RESERVATION"},
        "kubeletConfig": {"shutdownGracePeriodSeconds": 120},
    },
}
CONFIG = ("config",)
NETWORKS = ("networkConfig", "additionalNodeNetworkConfigs")
GPU = (*CONFIG, "accelerators", 0)
AFFINITY = (*CONFIG, "reservationAffinity")
GRACE = (*CONFIG, "kubeletConfig", "shutdownGracePeriodSeconds")
SPECIFIC = {"consumeReservationType": "SPECIFIC_RESERVATION", "values": ["a"]}
NOT_SPOT = ((*CONFIG, "spot"), False)


def pool(*edits: tuple[tuple[str | int, ...], Any]) -> Any:
    return edited(POOL, *edits)


def flexible(*edits: tuple[tuple[str | int, ...], Any]) -> Any:
    return pool(
        NOT_SPOT,
        (("config", "flexStart"), True),
        (("config", "kubeletConfig"), {}),
        (("management", "autoRepair"), False),
        *edits,
    )


CLUSTER: dict[str, Any] = {
    "name": "my-cluster",
    "currentMasterVersion": "1.35.2-gke.1000000",
    "workloadIdentityConfig": {"workloadPool": "my-project.svc.id.goog"},
    "networkConfig": {"enableMultiNetworking": True, "datapathProvider": "ADVANCED_DATAPATH"},
    "nodePools": [POOL],
}


def cluster(*edits: tuple[tuple[str | int, ...], Any]) -> Any:
    return edited(CLUSTER, *edits)


def policy(role: str, member: str, **more: Any) -> dict[str, Any]:
    return {"bindings": [{"role": f"roles/{role}", "members": [member]}], "etag": "a", "version": 1, **more}


BUCKET = {"kind": "storage#policy", "resourceId": "projects/_/buckets/my-bucket"}
ACCOUNT = "serviceAccount:trainer@my-project.iam.gserviceaccount.com"
POOLS = "iam.googleapis.com/projects/{}/locations/global/workloadIdentityPools/my-project.svc.id.goog"
PRINCIPAL = f"principal://{POOLS.format(123456)}/subject/ns/default/sa/packtrain"
KSA = "serviceAccount:my-project.svc.id.goog[default/packtrain]"
CLUSTER_SET = f"principalSet://{POOLS.format(123456)}/kubernetes.cluster/https://container.googleapis.com/v1/projects/p/a"


def member(kind: str, role: str, who: str) -> dict[str, Any]:
    """Of Config Connector."""
    return {
        "apiVersion": "iam.cnrm.cloud.google.com/v1beta1",
        "kind": "IAMPolicyMember",
        "metadata": {"name": "a"},
        "spec": {"member": who, "role": f"roles/{role}", "resourceRef": {"kind": kind, "name": "a"}},
    }


POOL_CASES = (
    Case(
        "PT901",
        pool(((*CONFIG, "gvnic"), DROP)),
        pool(((*CONFIG, "gvnic"), DROP), ((*CONFIG, "machineType"), "g2-standard-8")),
    ),
    Case("PT902", pool(((*CONFIG, "workloadMetadataConfig"), DROP)), pool()),
    Case(
        "PT902",
        pool(((*CONFIG, "workloadMetadataConfig", "mode"), "GCE_METADATA")),
        pool(
            ((*CONFIG, "workloadMetadataConfig"), DROP),
            ((*CONFIG, "machineType"), "e2-standard-4"),
            ((*CONFIG, "accelerators"), []),
        ),
    ),
    Case("PT903", pool(((*NETWORKS, 8), {"network": "vpc9"})), pool((NETWORKS, DROP))),
    Case("PT903", pool(((*NETWORKS, 7), {"network": "vpc1"})), pool(((*NETWORKS, 7), {"network": "other"}))),
    Case(
        "PT904",
        pool(((*CONFIG, "ephemeralStorageLocalSsdConfig"), DROP)),
        pool(
            ((*CONFIG, "ephemeralStorageLocalSsdConfig"), DROP),
            ((*CONFIG, "localNvmeSsdBlockConfig"), {"localSsdCount": 16}),
        ),
    ),
    Case(
        "PT905",
        pool(((*GPU, "gpuDriverInstallationConfig"), DROP)),
        pool(((*GPU, "gpuDriverInstallationConfig", "gpuDriverVersion"), "DEFAULT")),
    ),
    Case("PT906", pool(((*GPU, "acceleratorType"), "nvidia-h100-80gb")), pool()),
    Case("PT906", pool(((*GPU, "acceleratorCount"), "4")), pool(((*GPU, "acceleratorCount"), 8))),
    Case(
        "PT907",
        pool(((*CONFIG, "imageType"), "UBUNTU_CONTAINERD")),
        pool(((*CONFIG, "imageType"), "UBUNTU_CONTAINERD"), ((*CONFIG, "machineType"), "a2-highgpu-8g")),
    ),
    Case(
        "PT908",
        pool(((*CONFIG, "serviceAccount"), "default")),
        pool(((*CONFIG, "serviceAccount"), "default-nodes@my-project.iam.gserviceaccount.com")),
    ),
    Case(
        "PT909",
        pool(((*CONFIG, "oauthScopes"), ["https://www.googleapis.com/auth/logging.write"])),
        pool(((*CONFIG, "oauthScopes"), ["https://www.googleapis.com/auth/devstorage.read_only"])),
    ),
    Case(
        "PT910",
        pool((("status",), "ERROR"), (("statusMessage",), "no room")),
        pool((("status",), "RECONCILING")),
    ),
    Case("PT921", flexible((("autoscaling", "enabled"), False)), flexible()),
    Case("PT921", flexible((AFFINITY, DROP)), pool((AFFINITY, DROP))),
    Case("PT921", flexible((("management", "autoRepair"), True)), pool((("management", "autoRepair"), True))),
    Case(
        "PT921",
        pool((("queuedProvisioning",), {"enabled": True})),
        pool((("queuedProvisioning",), {"enabled": False})),
    ),
    Case("PT922", flexible((("autoscaling", "locationPolicy"), "BALANCED")), flexible()),
    Case("PT922", flexible((("initialNodeCount",), 2)), pool((("initialNodeCount",), 2))),
    Case(
        "PT923",
        flexible((("version",), "1.32.2-gke.1651999")),
        flexible((("version",), "1.32.2-gke.1652000")),
    ),
    Case(
        "PT923",
        flexible(((*CONFIG, "maxRunDuration"), "604801s")),
        flexible(((*CONFIG, "maxRunDuration"), "604800s")),
    ),
    Case(
        "PT924", pool(NOT_SPOT, (AFFINITY, {**SPECIFIC, "values": []})), pool(NOT_SPOT, (AFFINITY, SPECIFIC))
    ),
    Case(
        "PT924", pool((AFFINITY, SPECIFIC)), pool((AFFINITY, {"consumeReservationType": "ANY_RESERVATION"}))
    ),
    Case("PT925", pool((GRACE, 121)), pool((GRACE, "120"))),
    Case("PT925", pool((("version",), "1.34.9-gke.1")), pool((("version",), "1.35.0-gke.1171000"))),
    Case("PT926", pool((GRACE, DROP)), pool((GRACE, DROP), NOT_SPOT)),
    Case("PT927", pool((("autoscaling",), {}), (("initialNodeCount",), 1)), pool((("autoscaling",), {}))),
    Case("PT927", pool((("autoscaling", "minNodeCount"), 1)), pool((("autoscaling", "minNodeCount"), 0))),
)
CLUSTER_CASES = (
    Case("PT931", cluster((("workloadIdentityConfig",), DROP)), cluster()),
    Case(
        "PT931",
        cluster((("workloadIdentityConfig", "workloadPool"), "my-project")),
        cluster((("workloadIdentityConfig", "workloadPool"), "example.com:p.svc.id.goog")),
    ),
    Case(
        "PT932",
        cluster((("networkConfig", "enableMultiNetworking"), DROP)),
        cluster(
            (("networkConfig", "enableMultiNetworking"), DROP), (("nodePools", 0, "networkConfig"), DROP)
        ),
    ),
    Case("PT932", cluster((("networkConfig", "datapathProvider"), "LEGACY_DATAPATH")), cluster()),
    Case(
        "PT933",
        cluster((("currentMasterVersion",), "1.28.15-gke.1")),
        cluster((("currentMasterVersion",), "1.29.0-gke.1")),
    ),
)
POLICY_CASES = (
    Case("PT951", policy("editor", ACCOUNT), policy("editor", "user:someone@example.com")),
    Case(
        "PT951",
        policy("editor", "serviceAccount:1-compute@developer.gserviceaccount.com"),
        policy("editor", "serviceAccount:1@cloudservices.gserviceaccount.com"),
    ),
    Case("PT951", member("Project", "owner", ACCOUNT), member("Project", "viewer", ACCOUNT)),
    Case("PT952", policy("storage.objectAdmin", ACCOUNT), policy("storage.objectAdmin", ACCOUNT, **BUCKET)),
    Case(
        "PT952",
        policy("storage.admin", PRINCIPAL),
        policy("storage.admin", "serviceAccount:service-1@gcp-sa-x.iam.gserviceaccount.com"),
    ),
    Case(
        "PT952",
        member("Project", "storage.objectUser", ACCOUNT),
        member("StorageBucket", "storage.objectUser", ACCOUNT),
    ),
    Case(
        "PT953",
        policy("storage.objectUser", CLUSTER_SET, **BUCKET),
        policy("storage.objectUser", PRINCIPAL, **BUCKET),
    ),
    Case(
        "PT953",
        policy("storage.objectUser", f"principalSet://{POOLS.format(1)}/*", **BUCKET),
        policy("storage.objectUser", f"principalSet://{POOLS.format(1)}/namespace/a", **BUCKET),
    ),
    Case(
        "PT954",
        policy("storage.objectUser", PRINCIPAL.replace("123456", "my-project"), **BUCKET),
        policy("storage.objectUser", PRINCIPAL, **BUCKET),
    ),
    Case(
        "PT954",
        policy("storage.objectUser", PRINCIPAL.replace(".svc.id.goog", ""), **BUCKET),
        policy(
            "storage.objectUser",
            f"principal://{POOLS.format(1).replace('my-project.svc.id.goog', 'github')}/subject/repo:a",
            **BUCKET,
        ),
    ),
    Case(
        "PT954",
        policy("storage.objectUser", PRINCIPAL.replace("ns/default/sa/", "default/"), **BUCKET),
        policy("storage.objectUser", f"principalSet://{POOLS.format(1)}/namespace/a", **BUCKET),
    ),
    Case(
        "PT955",
        policy("storage.objectViewer", "allUsers", **BUCKET),
        policy("storage.objectViewer", "domain:example.com", **BUCKET),
    ),
    Case("PT956", policy("iam.workloadIdentityUser", ACCOUNT), policy("iam.workloadIdentityUser", KSA)),
    Case(
        "PT956",
        policy("iam.workloadIdentityUser", KSA.replace("default/", "")),
        policy("iam.workloadIdentityUser", PRINCIPAL),
    ),
    Case(
        "PT957",
        member("Project", "iam.serviceAccountTokenCreator", ACCOUNT),
        member("IAMServiceAccount", "iam.serviceAccountTokenCreator", ACCOUNT),
    ),
    Case(
        "PT957",
        {
            "bindings": [
                *policy("iam.workloadIdentityUser", KSA)["bindings"],
                *policy("viewer", "user:a@b.c")["bindings"],
            ]
        },
        policy("iam.workloadIdentityUser", KSA),
    ),
)
CASES = (*POOL_CASES, *CLUSTER_CASES, *POLICY_CASES)
