"""``packtrain chat``: talk with an adapter on a terminal, or get one answer in a script."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from packtrain.cli.arguments import Adapter, Base

if TYPE_CHECKING:
    from collections.abc import Generator

    from packtrain.evaluate.chat import Chat


def chat(
    adapter: Adapter,
    base: Base = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Print the answer to this, and end.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Show the base's answer, too.")] = False,
    system: Annotated[str | None, typer.Option("--system", help="System message.")] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens.")
    ] = 512,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="0: the likeliest answer. Higher: more varied.")
    ] = 0.0,
    json_: Annotated[bool, typer.Option("--json", help="With --prompt: the answer as JSON.")] = False,
) -> None:
    """Talk with an adapter or a model. /reset forgets the turns, /exit ends, Ctrl-C stops an answer."""
    from packtrain.artifacts.locate import locate
    from packtrain.errors import UsageError
    from packtrain.run.heavy import heavy_imports

    with heavy_imports():
        from packtrain.evaluate.chat import Chat, load

    if json_ and prompt is None:
        raise UsageError("--json needs --prompt")
    if prompt is not None and not prompt.strip():
        raise UsageError("--prompt: is empty")
    with tempfile.TemporaryDirectory(prefix="packtrain-chat-") as folder:
        located = locate(adapter, Path(folder) / "adapter")
        for warning in located.warnings:
            _note(f"warning: {warning}")
        model, tokenizer, disabled = load(located, base, on_progress=_note)
        talk = Chat(model, tokenizer, disabled, max_new_tokens, temperature, system)
        if prompt is None:
            _converse(talk, compare=compare)
        else:
            _answer_once(talk, prompt, compare=compare, as_json=json_)


def _answer_once(talk: Chat, prompt: str, *, compare: bool, as_json: bool) -> None:
    if as_json:
        answers: dict[str, Any] = {"prompt": prompt}
        if compare:
            answers["base"] = "".join(talk.ask(prompt, base=True)).strip()
        answers["adapter"] = "".join(talk.ask(prompt)).strip()
        typer.echo(json.dumps(answers, ensure_ascii=False, indent=2))
        return
    _show(talk, prompt, compare=compare)


def _converse(talk: Chat, *, compare: bool) -> None:
    terminal = sys.stdin.isatty()
    if terminal:
        _note("/reset forgets the turns, /exit ends, Ctrl-C stops an answer")
    while True:
        try:
            said = input("> " if terminal else "").strip()
        except EOFError:
            break
        except KeyboardInterrupt:
            typer.echo("")
            continue
        if said == "/exit":
            return
        if said == "/reset":
            talk.reset()
            _note("the turns are forgotten")
        elif said.startswith("/"):
            _note(f"{said.split()[0]} is no command; there are /reset and /exit")
        elif said:
            try:
                _show(talk, said, compare=compare)
            except KeyboardInterrupt:
                typer.echo(" [stopped]")
    if terminal:
        typer.echo("")


def _show(talk: Chat, prompt: str, *, compare: bool) -> None:
    if compare:
        typer.echo("base:    ", nl=False)
        _print_pieces(talk.ask(prompt, base=True))
        typer.echo("adapter: ", nl=False)
    _print_pieces(talk.ask(prompt))


def _print_pieces(answer: Generator[str]) -> None:
    """As it comes, without white space before and after."""
    held = ""
    begun = False
    # Closed here and now, also by Ctrl-C: the generator's end puts the adapter back in.
    with closing(answer):
        for piece in answer:
            held += piece if begun else piece.lstrip()
            begun = begun or bool(held)
            ready = held.rstrip()
            if ready:
                typer.echo(ready, nl=False)
                sys.stdout.flush()
            held = held[len(ready) :]
    typer.echo("")


def _note(sentence: str) -> None:
    typer.echo(sentence, err=True)
