"""Cases of the rules on where a pod goes and what it asks for (PT2, PT3)."""

from __future__ import annotations

from doctor_cases.kit import (
    DROP,
    MAIN,
    NODE_JOB,
    POD,
    SELECTOR,
    Case,
    deployment,
    edited,
    job,
    jobset,
    workload,
)

ACCELERATOR = (*SELECTOR, "cloud.google.com/gke-accelerator")
INSTANCE = (*SELECTOR, "node.kubernetes.io/instance-type")
SPOT = (*SELECTOR, "cloud.google.com/gke-spot")
RESOURCES = (*MAIN, "resources")
LIMIT = (*RESOURCES, "limits", "nvidia.com/gpu")
REQUEST = (*RESOURCES, "requests", "nvidia.com/gpu")
GRACE = (*POD, "terminationGracePeriodSeconds")
TTL = ("spec", "ttlSecondsAfterFinished")
OURS = workload()
VOLUMES = [volume["name"] for volume in OURS["spec"]["template"]["spec"]["volumes"]]
SHM = (*POD, "volumes", VOLUMES.index("shared-memory"), "emptyDir")
MOUNTS = OURS["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
ONLY_AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {
                    "matchExpressions": [
                        {
                            "key": "cloud.google.com/gke-accelerator",
                            "operator": "In",
                            "values": ["nvidia-h100-mega-80gb"],
                        }
                    ]
                }
            ]
        }
    }
}
SMALL = {
    "name": "a",
    "image": "a:1",
    "resources": {"limits": {"nvidia.com/gpu": 1, "cpu": 4, "memory": "8Gi"}},
}
QUEUE_LABEL = (("metadata", "labels"), {"kueue.x-k8s.io/queue-name": "team-a"})
SECOND_JOB = (("spec", "replicatedJobs", 1), {"name": "b", "replicas": 1, "template": {"spec": {}}})
INNER_TTL = ((*NODE_JOB, "ttlSecondsAfterFinished"), 86_400)


def served(**resources: object) -> object:
    return deployment({"containers": [SMALL | {"resources": resources}]})


CASES = (
    Case("PT201", job(((*POD, "tolerations"), [])), job(((*POD, "tolerations"), [{"operator": "Exists"}]))),
    Case(
        "PT201", edited(deployment({"containers": [SMALL]}), QUEUE_LABEL), deployment({"containers": [SMALL]})
    ),
    Case("PT202", job((SELECTOR, {})), job((SELECTOR, {}), ((*POD, "affinity"), ONLY_AFFINITY))),
    Case("PT203", job((ACCELERATOR, "nvidia-h100-80gb-mega")), job((ACCELERATOR, "nvidia-rtx-9000"))),
    Case("PT203", job((ACCELERATOR, "nvidia-h100-mega-80g")), job((ACCELERATOR, "nvidia-gb200"))),
    Case("PT204", job((INSTANCE, "a3-highgpu-8g")), job((INSTANCE, DROP))),
    Case("PT205", job((LIMIT, 16), (REQUEST, 16)), job((LIMIT, "8"), (REQUEST, "8"))),
    Case(
        "PT205",
        job((LIMIT, 32), (REQUEST, 32), (SELECTOR, {})),
        job((LIMIT, 16), (REQUEST, 16), (SELECTOR, {})),
    ),
    Case("PT206", job((LIMIT, 4), (REQUEST, 4)), job((LIMIT, 4), (REQUEST, 4), (SELECTOR, {}))),
    Case("PT207", job((LIMIT, DROP)), job((REQUEST, DROP))),
    Case("PT207", job((LIMIT, 4)), job((LIMIT, "8"))),
    Case("PT207", job((LIMIT, "500m"), (REQUEST, DROP)), job((LIMIT, "${GPUS}"), (REQUEST, DROP))),
    Case(
        "PT208",
        job(((*SELECTOR, "cloud.google.com/gke-flex-start"), "true")),
        job(((*SELECTOR, "cloud.google.com/gke-provisioning"), "spot")),
    ),
    Case(
        "PT209",
        job(((*POD, "tolerations"), [{"key": "nvidia.com/gpu"}])),
        job((SPOT, DROP), ((*POD, "tolerations"), [])),
    ),
    Case("PT210", job((SPOT, "false")), job((SPOT, "true"))),
    Case("PT211", job((SPOT, True)), job((SPOT, "true"))),
    Case("PT211", job(((*MAIN, "env", 0, "value"), 8)), job(((*MAIN, "env", 0, "value"), "8"))),
    Case("PT211", job((("metadata", "labels", "version"), 1.0)), job((("metadata", "generation"), 1))),
    Case(
        "PT301",
        job(((*MAIN, "volumeMounts"), [each for each in MOUNTS if each["mountPath"] != "/dev/shm"])),
        job(((*MAIN, "volumeMounts"), []), (LIMIT, 1), (REQUEST, 1)),
    ),
    Case("PT302", job((SHM, {"sizeLimit": "1Gi"})), job((SHM, {"medium": "Memory", "sizeLimit": "1Gi"}))),
    Case(
        "PT303",
        job((SHM, {"medium": "Memory"}), ((*RESOURCES, "limits", "memory"), DROP)),
        job((SHM, {"medium": "Memory"})),
    ),
    Case("PT303", job(((*SHM, "sizeLimit"), "3000Gi")), job(((*SHM, "sizeLimit"), "900Gi"))),
    Case(
        "PT304",
        served(limits={"nvidia.com/gpu": 1, "cpu": 1}),
        served(limits={"nvidia.com/gpu": 1, "cpu": 1, "memory": "1Gi"}),
    ),
    Case("PT304", served(limits={"nvidia.com/gpu": 1}), served(limits={"cpu": 1})),
    Case(
        "PT305",
        job(((*RESOURCES, "requests", "cpu"), "208")),
        job(((*RESOURCES, "requests", "cpu"), "206500m")),
    ),
    Case(
        "PT305",
        job(((*RESOURCES, "requests", "memory"), "1872Gi")),
        job(((*RESOURCES, "requests", "memory"), "1820Gi")),
    ),
    Case(
        "PT306",
        job(((*RESOURCES, "requests", "cpu"), "207300m")),
        job(((*RESOURCES, "requests", "cpu"), "206800m")),
    ),
    Case(
        "PT307",
        job(((*RESOURCES, "requests", "ephemeral-storage"), DROP)),
        job(
            ((*RESOURCES, "requests", "ephemeral-storage"), DROP),
            *[
                ((*POD, "volumes", index, "emptyDir", "sizeLimit"), "1Gi")
                for index, each in enumerate(OURS["spec"]["template"]["spec"]["volumes"])
                if "emptyDir" in each
            ],
        ),
    ),
    Case("PT308", job((GRACE, 600)), job((GRACE, 120))),
    Case("PT308", job((GRACE, 600)), job((GRACE, 600), capacity="on-demand")),
    Case("PT309", job((GRACE, 0)), job((GRACE, 1))),
    Case("PT310", job((TTL, 60)), job((TTL, 3600))),
    Case("PT311", jobset((TTL, 60)), jobset((TTL, 3600))),
    Case("PT312", jobset(INNER_TTL, (("spec", "replicatedJobs", 0, "replicas"), 2)), jobset(INNER_TTL)),
    Case("PT313", job((TTL, DROP)), jobset((TTL, DROP))),
)
