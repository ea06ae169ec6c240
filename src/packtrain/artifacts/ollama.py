"""An Ollama Modelfile: the chat template in Go's language, and what ends an answer.

Ollama does not run the Jinja template that a GGUF file holds. So the parts of one that says the same are
found by rendering: what stands before and behind a system prompt, a question and an answer. Where the
parts put together are not what Jinja renders, there is no such template, and none is written.

Format: https://github.com/ollama/ollama/blob/main/docs/modelfile.md
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from packtrain.evaluate.generate import render

SYSTEM, USER, ANSWER = "5y5t3m", "u53r{}", "an5w3r{}"


@dataclass(frozen=True)
class Parts:
    """Texts between contents, in the order in which a conversation has them."""

    head: str
    """Where there is no system prompt."""
    system: tuple[str, str] | None
    """Around a system prompt; None where the template takes none."""
    before_user: str
    after_user: str
    """Up to where the answer begins."""
    after_answer: str

    def render(self, system: str | None, turns: Sequence[str]) -> str:
        """As :meth:`go` does: user, assistant, user, …, up to where the answer begins."""
        assert system is None or self.system is not None
        text = self.head if system is None or self.system is None else system.join(self.system)
        for index, turn in enumerate(turns):
            around = (self.before_user, self.after_user) if index % 2 == 0 else ("", self.after_answer)
            text += turn.join(around)
        return text

    def go(self) -> str:
        head = self.head
        if self.system is not None:
            head = f"{{{{ if .System }}}}{'{{ .System }}'.join(self.system)}{{{{ else }}}}{head}{{{{ end }}}}"
        user = "{{ .Content }}".join((self.before_user, self.after_user))
        return (
            f'{head}{{{{ range .Messages }}}}{{{{ if eq .Role "user" }}}}{user}'
            f'{{{{ else if eq .Role "assistant" }}}}{{{{ .Content }}}}{self.after_answer}'
            "{{ end }}{{ end }}"
        )


def parts_of(tokenizer: Any) -> Parts | None:
    """Of the tokenizer's chat template; None where none fit. Without the BOS that llama.cpp adds."""
    turns = [USER.format(1), ANSWER.format(1), USER.format(2), ANSWER.format(2), USER.format(3)]
    plain = _rendered(tokenizer, None, turns)
    if plain is None:
        return None
    cut = _cut(plain, turns)
    if cut is None:
        return None
    first, after_user, between, again, second, last = cut
    before_user = _common_end(first, between)
    made = Parts(
        first.removesuffix(before_user), None, before_user, after_user, between.removesuffix(before_user)
    )
    with_system = _rendered(tokenizer, SYSTEM, turns)
    if with_system is not None:
        found = _cut(with_system, [SYSTEM, *turns])
        if found is not None and found[1].endswith(before_user):
            around = (found[0], found[1].removesuffix(before_user))
            made = Parts(made.head, around, before_user, after_user, made.after_answer)
    del again, second, last
    return made if _says_the_same(made, tokenizer, turns) else None


def _says_the_same(made: Parts, tokenizer: Any, turns: list[str]) -> bool:
    systems = [None, *([SYSTEM] if made.system is not None else [])]
    same = all(
        made.render(system, turns[:length]) == _rendered(tokenizer, system, turns[:length])
        for system in systems
        for length in (1, 3, 5)
    )
    texts = (made.head, *(made.system or ()), made.before_user, made.after_user, made.after_answer)
    return same and not any(sign in text for text in texts for sign in ("{{", "}}", '"""'))


def _rendered(tokenizer: Any, system: str | None, turns: Sequence[str]) -> str | None:
    messages = [{"role": "system", "content": system}] if system is not None else []
    roles = ("user", "assistant")
    messages += [{"role": roles[index % 2], "content": turn} for index, turn in enumerate(turns)]
    try:
        text = render(tokenizer, messages, add_generation_prompt=True)
    except ValueError:
        return None
    bos = tokenizer.bos_token
    adds = bos is not None and tokenizer("", add_special_tokens=True)["input_ids"][:1] == [
        tokenizer.bos_token_id
    ]
    return text.removeprefix(bos) if adds else text


def _cut(text: str, contents: Sequence[str]) -> list[str] | None:
    parts = []
    for content in contents:
        before, found, text = text.partition(content)
        if not found:
            return None
        parts.append(before)
    return [*parts, text]


def _common_end(first: str, second: str) -> str:
    length = 0
    while length < min(len(first), len(second)) and first[-1 - length] == second[-1 - length]:
        length += 1
    return first[len(first) - length :]


def modelfile(gguf: str, tokenizer: Any, stops: Sequence[str]) -> tuple[str, bool]:
    """The text, and whether it holds a template."""
    parts = parts_of(tokenizer) if tokenizer.chat_template is not None else None
    lines = [f"FROM ./{gguf}"]
    if parts is not None:
        lines.append(f'TEMPLATE """{parts.go()}"""')
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    return "\n".join(lines) + "\n", parts is not None
