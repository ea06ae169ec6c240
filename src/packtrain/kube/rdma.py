"""GPUDirect-RDMA for the pods of several a3-ultragpu-8g or a4-highgpu-8g: eight networks, and NCCL's gIB.

There is no daemon. The trainer leaves the "restricted" standard by as little as this takes: it is root, with
the one capability to lock memory, and sees two folders of the node. Source: container-engine-accelerators,
gpudirect-rdma (nccl-test.yaml, nccl-test-a4.yaml), and cluster-toolkit's nccl-jobset-example.yaml for both.
"""

from __future__ import annotations

from dataclasses import replace

from packtrain.kube import fabrics, gpudirect
from packtrain.kube.pod import resources
from packtrain.kube.resources import of_machine
from packtrain.kube.spec import Mount, Pod, Variable, host_path
from packtrain.plan.machines import Machine

GIB_FOLDER = "/usr/local/gib"
#: NCCL's settings come with the plugin on the node, as a script for bash. The shell then becomes the
#: supervisor, which has to be the container's first process.
_WITH_SETTINGS = (
    *("/bin/bash", "-c"),
    'test -r "$GIB_DIR/scripts/set_nccl_env.sh" && { . "$GIB_DIR/scripts/set_nccl_env.sh"; exec "$@"; }',
    "bash",
)


def with_rdma(pod: Pod, machine: Machine) -> Pod:
    """A pass, after :func:`packtrain.kube.pod.of_several`."""
    main = pod.containers[0]
    env = (
        Variable("GIB_DIR", GIB_FOLDER),
        Variable("LD_LIBRARY_PATH", gpudirect.LIBRARIES),
        # Without the plugin it fails, and is not only slow.
        Variable("NCCL_NET", "gIB"),
    )
    pod = pod.main(
        command=(*_WITH_SETTINGS, *main.command),
        env=(*main.env, *env),
        mounts=(*main.mounts, gpudirect.NVIDIA_MOUNT, Mount("gib", GIB_FOLDER, read_only=True)),
        security=replace(main.security, root=True, add=("IPC_LOCK",)),
    )
    pod = replace(
        pod,
        annotations={**pod.annotations, **gpudirect.interfaces(fabrics.RDMA)},
        volumes=(*pod.volumes, gpudirect.NVIDIA, host_path("gib", "/home/kubernetes/bin/gib")),
    )
    return resources(pod, of_machine(machine))
