"""Tasks of lm-eval (https://github.com/EleutherAI/lm-evaluation-harness), on base and adapter.

The library is an extra: it brings some forty packages, and most of its tasks fetch their data from the hub.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packtrain.artifacts.locate import LocatedAdapter
from packtrain.errors import ConfigError, UsageError
from packtrain.evaluate.chat import load

Say = Callable[[str], None]
#: Metric -> value, of a side.
Metrics = dict[str, float]


def check_tasks(tasks: Sequence[str]) -> None:
    """Raises ConfigError where tasks are asked for and lm-eval is not installed. Imports nothing."""
    if tasks and find_spec("lm_eval") is None:
        raise ConfigError("--tasks needs lm-eval, which is an extra", hint="pip install 'packtrain[eval]'")


def run_tasks(
    located: LocatedAdapter,
    base: str | None,
    tasks: Sequence[str],
    *,
    limit: int | None,
    say: Say,
    four_bits: bool | None = None,
) -> dict[str, dict[str, Metrics]]:
    """Task -> ``base`` and ``adapter`` -> metrics. A task is a name that lm-eval knows, or a YAML file.

    ``four_bits``: as for :func:`packtrain.evaluate.chat.load`. Raises UsageError for a task that
    is not known.
    """
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    names, manager = _known(tasks, TaskManager)
    model, tokenizer, disabled = load(located, base, four_bits=four_bits, on_progress=say)
    with disabled() as other:
        say("the base does the tasks")
        before = _results(
            HFLM(pretrained=model if other is None else other, tokenizer=tokenizer), names, manager, limit
        )
    say("the adapter does the tasks")
    after = _results(HFLM(pretrained=model, tokenizer=tokenizer), names, manager, limit)
    return {task: {"base": before[task], "adapter": after[task]} for task in before}


def _known(tasks: Sequence[str], managers: Callable[..., Any]) -> tuple[list[str], Any]:
    files = [Path(task) for task in tasks if task.endswith((".yaml", ".yml"))]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise UsageError(f"--tasks: {missing[0]} is not there")
    folders = sorted({str(path.absolute().parent) for path in files})
    manager = managers(include_path=folders) if folders else managers()
    names = [_name(Path(task)) if Path(task) in files else task for task in tasks]
    unknown = sorted(set(names) - set(manager.all_tasks))
    if unknown:
        raise UsageError(
            f"--tasks: {unknown[0]} is no task of lm-eval", hint="lm-eval ls tasks lists those that it knows"
        )
    return names, manager


def _name(path: Path) -> str:
    """The task that a file of lm-eval's describes."""
    import re

    found = re.search(r"^task:\s*[\"']?([\w.-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise UsageError(f"--tasks: {path} names no task")
    return found[1]


def _results(model: Any, names: list[str], manager: Any, limit: int | None) -> dict[str, Metrics]:
    import lm_eval

    found = lm_eval.simple_evaluate(
        model=model, tasks=names, task_manager=manager, limit=limit, bootstrap_iters=0, log_samples=False
    )
    return {
        task: {
            metric.removesuffix(",none"): float(value)
            for metric, value in metrics.items()
            if isinstance(value, int | float) and "stderr" not in metric
        }
        for task, metrics in found["results"].items()
    }
