"""GPUDirect-TCPX for the pods of several a3-highgpu-8g: the daemon, four networks and NCCL's settings.

The trainer leaves the "restricted" standard by as little as this takes: it is root, with the one capability
to lock memory, and sees the node's NVIDIA folder. Source: container-engine-accelerators, gpudirect-tcpx: the
unprivileged test without the host's network, and nccl-config.yaml (see ``pins.toml``).
"""

from __future__ import annotations

from dataclasses import replace

from packtrain.kube import fabrics, gpudirect, pins
from packtrain.kube.names import TCPX_DAEMON
from packtrain.kube.pod import resources
from packtrain.kube.resources import of_machine
from packtrain.kube.spec import Container, Mount, Pod, Security, Variable, empty_dir, host_path
from packtrain.plan.machines import GIB, Machine

SOCKETS = "/run/tcpx"
_CPUS = 4
_MEMORY_GIB = 8
#: As the plugin's own tests set them: which cards, which of the machine's CPUs serve each, sizes of chunks.
NCCL = {
    "NCCL_GPUDIRECTTCPX_UNIX_CLIENT_PREFIX": SOCKETS,
    "NCCL_GPUDIRECTTCPX_SOCKET_IFNAME": "eth1,eth2,eth3,eth4",
    "NCCL_GPUDIRECTTCPX_CTRL_DEV": "eth0",
    "NCCL_GPUDIRECTTCPX_TX_BINDINGS": (
        "eth1:8-21,112-125;eth2:8-21,112-125;eth3:60-73,164-177;eth4:60-73,164-177"
    ),
    "NCCL_GPUDIRECTTCPX_RX_BINDINGS": (
        "eth1:22-35,126-139;eth2:22-35,126-139;eth3:74-87,178-191;eth4:74-87,178-191"
    ),
    "NCCL_GPUDIRECTTCPX_PROGRAM_FLOW_STEERING_WAIT_MICROS": "500000",
    "NCCL_CROSS_NIC": "0",
    "NCCL_ALGO": "Ring,Tree",
    "NCCL_PROTO": "Simple",
    "NCCL_NET_GDR_LEVEL": "PIX",
    "NCCL_P2P_PXN_LEVEL": "0",
    "NCCL_DYNAMIC_CHUNK_SIZE": "524288",
    "NCCL_P2P_NET_CHUNKSIZE": "524288",
    "NCCL_P2P_PCI_CHUNKSIZE": "524288",
    "NCCL_P2P_NVL_CHUNKSIZE": "1048576",
    "NCCL_BUFFSIZE": "4194304",
    "NCCL_NSOCKS_PERTHREAD": "4",
    "NCCL_SOCKET_NTHREADS": "1",
}


def with_tcpx(pod: Pod, machine: Machine) -> Pod:
    """A pass, after :func:`packtrain.kube.pod.of_several`."""
    main = pod.containers[0]
    env = (
        Variable("LD_LIBRARY_PATH", gpudirect.LIBRARIES),
        *(Variable(name, value) for name, value in NCCL.items()),
    )
    pod = pod.main(
        env=(*main.env, *env),
        mounts=(*main.mounts, gpudirect.NVIDIA_MOUNT, Mount("tcpx-socket", SOCKETS)),
        security=replace(main.security, root=True, add=("IPC_LOCK",)),
    )
    annotations = gpudirect.devices(TCPX_DAEMON, machine.gpus) | gpudirect.interfaces(fabrics.TCPX)
    pod = replace(
        pod,
        init_containers=(*pod.init_containers, daemon()),
        annotations={**pod.annotations, **annotations},
        volumes=(
            *pod.volumes,
            gpudirect.NVIDIA,
            empty_dir("tcpx-socket"),
            host_path("sys", "/sys"),
            host_path("proc-sys", "/proc/sys"),
        ),
    )
    return resources(pod, of_machine(machine, _CPUS, _MEMORY_GIB * GIB))


def daemon() -> Container:
    """The receive daemon, a native sidecar. It tells nobody when it is ready: a model is loaded meanwhile."""
    return Container(
        name=TCPX_DAEMON,
        image=pins.tcpx_daemon(),
        command=(
            *("/tcpgpudmarxd/build/app/tcpgpudmarxd", "--gpu_nic_preset", "a3vm", "--gpu_shmem_type", "fd"),
            *("--uds_path", SOCKETS, "--setup_param", "--verbose 128 2 0"),
        ),
        sidecar=True,
        env=(Variable("LD_LIBRARY_PATH", gpudirect.LIBRARIES),),
        requests={"cpu": str(_CPUS), "memory": f"{_MEMORY_GIB}Gi"},
        mounts=(
            gpudirect.NVIDIA_MOUNT,
            Mount("tcpx-socket", SOCKETS),
            Mount("sys", "/hostsysfs"),
            Mount("proc-sys", "/hostprocsysfs"),
        ),
        security=Security(root=True, read_only_root=False, drop=(), add=("NET_ADMIN",)),
    )
