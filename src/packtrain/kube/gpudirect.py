"""What the pods of all fabrics have in common: interfaces, the GPUs' devices, the node's NVIDIA folder."""

from __future__ import annotations

import json
from collections.abc import Sequence

import yaml

from packtrain.kube.fabrics import Fabric
from packtrain.kube.spec import Mount, host_path

LIBRARIES = "/usr/local/nvidia/lib64"
INTERFACES_ANNOTATION = "networking.gke.io/interfaces"
DEFAULT_INTERFACE_ANNOTATION = "networking.gke.io/default-interface"
#: The driver, and what an installer has put beside it: NCCL's plugin.
NVIDIA = host_path("nvidia", "/home/kubernetes/bin/nvidia")
NVIDIA_MOUNT = Mount("nvidia", "/usr/local/nvidia", read_only=True)


def interfaces(fabric: Fabric) -> dict[str, str]:
    """Annotations: eth0 as usual, and one interface for each of the GPUs' network cards."""
    listed = [{"interfaceName": "eth0", "network": "default"}]
    listed += [
        {"interfaceName": card.interface, "network": card.network}
        for card in fabric.attached
        if card.interface
    ]
    lines = ",\n".join(f"  {json.dumps(each)}" for each in listed)
    return {DEFAULT_INTERFACE_ANNOTATION: "eth0", INTERFACES_ANNOTATION: f"[\n{lines}\n]\n"}


def devices(container: str, gpus: int, more: Sequence[str] = ()) -> dict[str, str]:
    """The annotation by which the NRI device injector gives a container the GPUs, without privilege."""
    paths = [*(f"/dev/nvidia{index}" for index in range(gpus)), "/dev/nvidiactl", "/dev/nvidia-uvm", *more]
    return {f"devices.gke.io/container.{container}": yaml.safe_dump([{"path": path} for path in paths])}
