"""The orders that a run draws: each a function of its seed and a number, whatever was drawn before it.

Epochs have the numbers from 0 on, and so have the windows of what is streamed. The others have numbers that
no epoch reaches.
"""

from __future__ import annotations

import numpy as np

from packtrain.data.packing import Indices

#: For the choice of the validation rows.
VALIDATION = 2**32
#: For the rows of a mixture's first source; the other sources' follow.
SOURCES = 2**33
#: For the files of the first epoch that is streamed; the other epochs' follow. No mixture is streamed.
FILES = 2**33


def drawn_order(seed: int, number: int, count: int) -> Indices:
    """0 … ``count`` - 1 in the order of that number."""
    key = np.array([seed, number], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(count)
