"""For how long a pod has had its node when its container starts: that is paid for, too.

No field tells a container when its pod came to the node. The kubelet does: it puts the ConfigMap with the
run file there before it pulls the image, and never again, for the ConfigMap is immutable. A node that was
booted a few minutes before was made for this pod, as far as can be known: then its boot counts.
https://kubernetes.io/docs/concepts/configuration/configmap/#mounted-configmaps-are-updated-automatically
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

#: What the kubelet makes when it fills a ConfigMap's volume: a link to the folder with its content.
PLACED = "..data"
#: Seconds: an autoscaled pool takes a node away after ten idle minutes, so that an older one had other work.
FRESH = 600.0
#: A clock that was set meanwhile makes nonsense of a difference.
MOST = 6 * 3600.0


def paid_before(
    environment: Mapping[str, str],
    *,
    now: Callable[[], float] = time.time,
    uptime: Callable[[], float | None] | None = None,
) -> float:
    """Seconds for which the node was this pod's before now; 0 outside of a pod."""
    folder = environment.get("PACKTRAIN_CONFIG")
    if not folder:
        return 0.0
    try:
        placed = (Path(folder) / PLACED).lstat().st_mtime
    except OSError:
        return 0.0
    here = now() - placed
    if not 0 <= here <= MOST:
        return 0.0
    up = (uptime or node_uptime)()
    return up if up is not None and here <= up <= here + FRESH else here


def node_uptime() -> float | None:
    """Seconds since the node was booted: containers have no other number here."""
    try:
        return float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
