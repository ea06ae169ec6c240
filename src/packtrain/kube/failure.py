"""What happens when a pod fails: which exit codes end a run, which are tried again, and how often.

The codes are those of :mod:`packtrain.errors`; the supervisor, the container's first process, ends with
the true one.
"""

from __future__ import annotations

from packtrain.errors import BY_EXIT_CODE, PreemptedError
from packtrain.kube.spec import Manifest

#: No new attempt can help.
NEVER: tuple[int, ...] = tuple(sorted(code for code, kind in BY_EXIT_CODE.items() if kind.retry == "no"))
#: The state was saved because somebody asked: no failure, and not counted.
SAVED: tuple[int, ...] = (PreemptedError.exit_code,)
#: Failures that count (69, 70, 74, and a pod that was killed) before the run is given up.
RETRIES = 6
#: The same for several nodes, where a lost peer's echo can count before the cause is known.
RESTARTS = 20

_DISRUPTED = [{"type": "DisruptionTarget", "status": "True"}]


def job_policy(container: str) -> Manifest:
    """``podFailurePolicy`` of a Job that replaces its own pods; the first rule that fits counts."""
    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": _DISRUPTED},
            {"action": "FailJob", "onExitCodes": _codes(container, NEVER)},
            {"action": "Ignore", "onExitCodes": _codes(container, SAVED)},
        ]
    }


def node_policy(container: str) -> Manifest:
    """``podFailurePolicy`` of a JobSet's Job: it fails at once, and its message tells the JobSet why."""
    return {
        "rules": [
            {"action": "FailJob", "onPodConditions": _DISRUPTED},
            {"action": "FailJob", "onExitCodes": _codes(container, NEVER)},
            {"action": "FailJob", "onExitCodes": _codes(container, SAVED)},
        ]
    }


def jobset_policy() -> Manifest:
    """``failurePolicy`` of a JobSet: all nodes begin again together, unless no attempt can help.

    The patterns are those of the Job controller's messages, "Pod NS/NAME has condition DisruptionTarget
    matching FailJob rule" and "Container C for pod NS/NAME failed with exit code N matching …".
    """
    again = {"action": "RestartJobSetAndIgnoreMaxRestarts", "onJobFailureReasons": ["PodFailurePolicy"]}
    saved = "|".join(map(str, SAVED))
    return {
        "maxRestarts": RESTARTS,
        "restartStrategy": "BlockingRecreate",
        "rules": [
            {"name": "preempted", "onJobFailureMessagePatterns": ["has condition DisruptionTarget"]} | again,
            {"name": "saved", "onJobFailureMessagePatterns": [f"failed with exit code ({saved}) "]} | again,
            {
                "name": "final",
                "action": "FailJobSet",
                "onJobFailureReasons": ["PodFailurePolicy"],
                "onJobFailureMessagePatterns": ["failed with exit code"],
            },
            {"name": "deadline", "action": "FailJobSet", "onJobFailureReasons": ["DeadlineExceeded"]},
        ],
    }


def _codes(container: str, codes: tuple[int, ...]) -> Manifest:
    return {"containerName": container, "operator": "In", "values": list(codes)}
