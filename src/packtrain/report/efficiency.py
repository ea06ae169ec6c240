"""How much of what the machine can do the training asked of it, planned and measured."""

from __future__ import annotations

from dataclasses import dataclass

from packtrain.report.story import Story


@dataclass(frozen=True)
class Efficiency:
    name: str
    share: float
    """Operations that the model needs for the tokens of a second, over those that the machine can do."""
    planned: float | None


def efficiency(story: Story) -> Efficiency | None:
    """None where the model, the machine or the speed is not known: nothing is made up.

    On GPUs it is what others call model FLOPs utilisation, recomputing not counted.
    """
    needed, speed = story.start.get("flops_per_token"), story.curves["tokens_per_second"].mean
    plan = story.plan if story.plan.get("device") == story.start.get("device") else {}
    peak = story.start.get("peak_flops") or plan.get("peak_flops")
    if not needed or not peak or speed is None:
        return None
    planned = plan.get("tokens_per_second")
    on_gpu = story.start.get("device") == "cuda"
    return Efficiency(
        name="MFU" if on_gpu else "share of the matrix rate",
        share=speed * needed / peak,
        planned=planned * needed / peak if planned else None,
    )
