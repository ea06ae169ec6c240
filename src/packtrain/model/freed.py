"""Memory that a step frees stays with the process: the next layer's results go where it lies warm.

glibc gives large pieces back to the kernel at once, and asks for them again, page by page and filled
with zeros, for the next product: some per cent of a training step on a CPU. A step needs as much as
the last one did, so that keeping it costs nothing at the peak.
"""

from __future__ import annotations

import ctypes

#: Of mallopt(3): how much free memory at the heap's end is given back, and how many pieces may lie
#: outside the heap (whose memory cannot be kept).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1
#: What they are in the beginning, by mallopt(3).
_TRIM_FIRST, _MMAP_FIRST = 128 << 10, 65536


def keep_freed_memory() -> bool:
    """For the whole process, from now on; whether its C library can (glibc's can)."""
    return _mallopt(_MMAP_MAX, 0) and _mallopt(_TRIM_THRESHOLD, _NEVER)


def give_back_freed_memory() -> bool:
    """What was kept goes back to the system, and what is freed from now on; whether the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    again = _mallopt(_MMAP_MAX, _MMAP_FIRST) and _mallopt(_TRIM_THRESHOLD, _TRIM_FIRST)
    return again and trim is not None and bool(trim(0) >= 0)


def _mallopt(parameter: int, value: int) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(parameter, value))
