"""The ranks that vLLM can be told: for the check of an adapter, and for the manifest that serves one."""

from __future__ import annotations

#: What ``--max-lora-rank`` takes: vllm/config/lora.py, MaxLoRARanks.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def least_rank(rank: int) -> int | None:
    """The least ``--max-lora-rank`` that serves ``rank``; None where there is none."""
    return next((each for each in RANKS if each >= rank), None)
