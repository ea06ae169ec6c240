"""packtrain in Python: what the verbs do, called from a script or a notebook (docs/python.md).

Nothing here prints a result or ends the process: functions return, and raise
:class:`~packtrain.errors.PacktrainError` with the sentence that a verb would print.
"""

from packtrain.api.adapter import Adapter
from packtrain.api.planning import Plan, plan
from packtrain.api.reading import load
from packtrain.api.training import Trained, train
from packtrain.config import RunConfig
from packtrain.errors import PacktrainError

__all__ = ["Adapter", "PacktrainError", "Plan", "RunConfig", "Trained", "load", "plan", "train"]
