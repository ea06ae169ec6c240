"""The same prompts answered by the base and by the adapter, side by side, and the share that is right."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from packtrain.config import Prompt
from packtrain.evaluate.generate import generate

if TYPE_CHECKING:
    from rich.table import Table


#: C0 and C1 but for tab and line feed, and what turns the direction of text around.
_CONTROL = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]")


@dataclass(frozen=True)
class Answer:
    prompt: str
    base: str
    adapter: str
    expect: tuple[str, ...] = ()
    """Any of these makes an answer right; () where nothing is expected."""

    @property
    def right_before(self) -> bool | None:
        return is_right(self.base, self.expect) if self.expect else None

    @property
    def right_after(self) -> bool | None:
        return is_right(self.adapter, self.expect) if self.expect else None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"right_before": self.right_before, "right_after": self.right_after}


@dataclass(frozen=True)
class Score:
    before: int
    after: int
    asked: int
    """Prompts that expect something; never 0."""

    @property
    def share_before(self) -> float:
        return self.before / self.asked

    @property
    def share_after(self) -> float:
        return self.after / self.asked

    def __str__(self) -> str:
        return (
            f"right before: {self.before} of {self.asked} ({self.share_before:.0%}), "
            f"after: {self.after} of {self.asked} ({self.share_after:.0%})"
        )


def is_right(answer: str, expect: Sequence[str]) -> bool:
    """Whether the answer contains any of ``expect``, whatever the case and the white space.

    A digit at the end of what is expected is the end of the number: ``7`` is not in ``75``.
    """
    text = _normal(answer)
    return any(wanted and _pattern(wanted).search(text) for wanted in map(_normal, expect))


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _pattern(wanted: str) -> re.Pattern[str]:
    before = r"(?<!\d)" if wanted[:1].isdigit() else ""
    after = r"(?!\d)" if wanted[-1:].isdigit() else ""
    return re.compile(before + re.escape(wanted) + after)


def answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str | Prompt],
    *,
    max_new_tokens: int,
    base: Callable[[], AbstractContextManager[Any]],
    attention: Callable[[], AbstractContextManager[Any]] = nullcontext,
    system: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """Greedy answers of the base and of what was trained to each prompt.

    ``model`` holds what was trained. Inside ``base()`` the base answers: the model that it gives, or,
    where it gives None, ``model``, out of which it has taken the adapter for a while. ``attention()`` is
    entered around all that ``model`` does. ``system`` stands before every prompt. ``on_progress``: answers
    done and all. The modules' modes are put back.
    """
    asked = [Prompt(prompt=prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    # Module by module: a frozen base and its adapter need not be in the same mode.
    training = [module for module in model.modules() if module.training]
    done = 0

    def said(by: Any) -> list[str]:
        nonlocal done
        texts = []
        for prompt in asked:
            texts += generate(by, tokenizer, [_turns(prompt, system)], max_new_tokens=max_new_tokens)
            done += 1
            if on_progress is not None:
                on_progress(done, 2 * len(asked))
        return texts

    model.eval()
    try:
        with attention():
            with base() as other:
                before = said(model if other is None else other)
            after = said(model)
    finally:
        for module in training:
            module.training = True
    return [
        Answer(prompt.prompt, base_text, text, _expected(prompt))
        for prompt, base_text, text in zip(asked, before, after, strict=True)
    ]


def _turns(prompt: Prompt, system: str | None) -> str | list[dict[str, str]]:
    if system is None:
        return prompt.prompt
    return [{"role": "system", "content": system}, {"role": "user", "content": prompt.prompt}]


def _expected(prompt: Prompt) -> tuple[str, ...]:
    if prompt.expect is None:
        return ()
    return (prompt.expect,) if isinstance(prompt.expect, str) else tuple(prompt.expect)


def score(made: Sequence[Answer]) -> Score | None:
    """How many are right, before and after; None where no prompt expects anything."""
    judged = [answer for answer in made if answer.expect]
    if not judged:
        return None
    return Score(
        sum(bool(answer.right_before) for answer in judged),
        sum(bool(answer.right_after) for answer in judged),
        len(judged),
    )


def render_table(made: Sequence[Answer]) -> Table:
    """For a terminal: prompt, before, after, with a mark where something was expected."""
    from rich.table import Table
    from rich.text import Text

    table = Table("prompt", "before (base)", "after (adapter)", show_lines=True, expand=True)
    for answer in made:
        table.add_row(
            # Text: brackets in an answer are no markup.
            Text(printable(answer.prompt)),
            Text(_marked(answer.base, answer.right_before), style=_style(answer.right_before)),
            Text(_marked(answer.adapter, answer.right_after), style=_style(answer.right_after)),
        )
    return table


def render_plain(made: Sequence[Answer]) -> str:
    """For a log: three lines a prompt."""
    return "\n".join(
        f"prompt:  {_one_line(printable(answer.prompt))}\n"
        f"before:  {_one_line(_marked(answer.base, answer.right_before))}\n"
        f"after:   {_one_line(_marked(answer.adapter, answer.right_after))}"
        for answer in made
    )


def printable(text: str) -> str:
    """``text`` with its control characters escaped: what a model says must not steer a terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _marked(text: str, right: bool | None) -> str:
    shown = printable(text) or "(no answer)"
    return shown if right is None else f"{'✓' if right else '✗'} {shown}"


def _style(right: bool | None) -> str:
    return "" if right is None else ("green" if right else "red")


def _one_line(text: str) -> str:
    return " ".join(text.split())
