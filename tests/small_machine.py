"""A machine of one's own with one GPU, whose memory a test says: so small that a tiny model fills it."""

from __future__ import annotations

#: To be formatted with ``memory``, in MiB.
SMALL = """
[gpus.small]
label = "small"
name = "Small"
memory_mib = {memory}
bf16_tflops = 1.0
bandwidth_gbytes = 10.0
nvlink_gbytes = 0.0
quota = "SMALL"
[machines.small-1g]
gpu = "small"
gpus = 1
vcpus = 4
memory_gib = 16
local_ssds = 1
bundled_ssds = false
network_gbits = 10
nics = 0
fabric = "tcp"
[prices.machines.small-1g]
spot = 36.0
"""
