"""GPUDirect-TCPXO for the pods of several a3-megagpu-8g: the daemon, the networks and what NCCL needs.

Only there: on one node NVLink carries everything, and other machines have other fabrics. The trainer
leaves the "restricted" standard by as little as this takes: it is root, without any capability, and sees
two folders of the node. Source: container-engine-accelerators, gpudirect-tcpxo (see ``pins.toml``).
"""

from __future__ import annotations

from dataclasses import replace

from packtrain.kube import fabrics, gpudirect, pins
from packtrain.kube.gpudirect import LIBRARIES
from packtrain.kube.names import TCPXO_DAEMON
from packtrain.kube.pod import resources
from packtrain.kube.resources import of_machine
from packtrain.kube.spec import Container, Mount, Pod, Security, Variable, host_path
from packtrain.plan.machines import GIB, Machine

APERTURE_DEVICES = "/dev/aperture_devices"
HEALTH_FILE = "/run/health-check"
CAPABILITIES = ("NET_ADMIN", "NET_BIND_SERVICE")

_CPUS = 4
_MEMORY_GIB = 8
_ENTRY = "/fts/entrypoint_rxdm_container.sh"
#: NCCL's settings come with the plugin on the node: the profile that belongs to its version. The shell
#: then becomes the supervisor, which has to be the container's first process.
_WITH_PROFILE = ("/bin/sh", "-c", '. "$NCCL_LIB_DIR/nccl-env-profile.sh" && exec "$@"', "sh")


def with_tcpxo(pod: Pod, machine: Machine) -> Pod:
    """A pass, after :func:`packtrain.kube.pod.of_several`."""
    main = pod.containers[0]
    env = (
        Variable("NCCL_LIB_DIR", LIBRARIES),
        Variable("LD_LIBRARY_PATH", LIBRARIES),
        Variable("NCCL_FASTRAK_LLCM_DEVICE_DIRECTORY", APERTURE_DEVICES),
    )
    pod = pod.main(
        command=(*_WITH_PROFILE, *main.command),
        env=(*main.env, *env),
        mounts=(*main.mounts, gpudirect.NVIDIA_MOUNT, Mount("aperture-devices", APERTURE_DEVICES)),
        security=replace(main.security, root=True),
    )
    pod = replace(
        pod,
        init_containers=(*pod.init_containers, daemon()),
        annotations={**pod.annotations, **pod_annotations(machine, pod.host_network)},
        volumes=(
            *pod.volumes,
            gpudirect.NVIDIA,
            host_path("sys", "/sys"),
            host_path("proc-sys", "/proc/sys"),
            host_path("aperture-devices", APERTURE_DEVICES),
        ),
    )
    return resources(pod, of_machine(machine, _CPUS, _MEMORY_GIB * GIB))


def daemon() -> Container:
    """The receive daemon. As a native sidecar it is there first and ends with the trainer, not before."""
    return Container(
        name=TCPXO_DAEMON,
        image=pins.tcpxo().daemon,
        command=("/bin/sh", "-c"),
        args=(f"chmod 755 {_ENTRY} && exec {_ENTRY} --num_hops=2",),
        sidecar=True,
        env=(Variable("LD_LIBRARY_PATH", LIBRARIES), Variable("HEALTH_CHECK_LOG_FILE", HEALTH_FILE)),
        requests={"cpu": str(_CPUS), "memory": f"{_MEMORY_GIB}Gi"},
        mounts=(
            gpudirect.NVIDIA_MOUNT,
            Mount("sys", "/hostsysfs"),
            Mount("proc-sys", "/hostprocsysfs"),
        ),
        security=Security(root=True, read_only_root=False, drop=(), add=CAPABILITIES),
        probes={
            "startupProbe": {
                "exec": {"command": ["cat", HEALTH_FILE]},
                "periodSeconds": 5,
                "failureThreshold": 60,
            }
        },
    )


def pod_annotations(machine: Machine, host_network: bool) -> dict[str, str]:
    """The devices of the daemon, and eth0 with one network for each of the GPUs' network cards."""
    found = gpudirect.devices(TCPXO_DAEMON, machine.gpus, ["/dev/dmabuf_import_helper"])
    return found if host_network else found | gpudirect.interfaces(fabrics.TCPXO)
