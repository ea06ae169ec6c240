"""``packtrain.Adapter``: what was trained, opened with plain peft and transformers, and ready to answer."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from packtrain.api.guest import put_back, sentences
from packtrain.config import RunConfig
from packtrain.errors import ConfigError, DataError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from packtrain.api.training import Trained
    from packtrain.artifacts.receipt import Receipt

Messages: TypeAlias = "str | Sequence[Mapping[str, Any]]"
"""One user's turn, or all turns: ``[{"role": "user", "content": "…"}, …]``."""


@dataclass(frozen=True, eq=False, repr=False)
class Adapter:
    """An adapter on its base, or a whole model; :meth:`load` opens one, and answers change nothing of it."""

    model: Any
    """peft's ``PeftModel``; of a full fine-tuning, transformers' model."""
    tokenizer: Any
    """transformers' tokenizer, with the chat template of the training."""
    folder: Path
    """Of its files. One that was fetched from a bucket is there as long as this object is."""
    receipt: Receipt | None
    """How it came about. Each of its files is what the receipt says; None for files that have none."""
    _base: Callable[[], AbstractContextManager[Any]]

    @classmethod
    @sentences()
    def load(
        cls,
        adapter: Trained | RunConfig | str | os.PathLike[str],
        *,
        base: str | None = None,
        verify: bool = True,
        progress: bool = True,
    ) -> Adapter:
        """Open what a run has made, on the first GPU in bfloat16 or on the CPU in float32.

        ``adapter``: what :func:`packtrain.train` returned, a checked run, the folder of a run or of an
        adapter, a run file, or ``gs://BUCKET/PREFIX``. ``base``: take the base from here, a hub id, a folder
        or ``pypi:PACKAGE``. Errors: :class:`~packtrain.errors.ConfigError` for what is no adapter, or without
        its base; :class:`~packtrain.errors.StorageError` for files that differ from the receipt, unless
        ``verify`` is False; those of buckets and hubs.
        """
        from packtrain.run.heavy import heavy_imports
        from packtrain.train.progress import Silent, make_progress

        shown = make_progress() if progress else Silent()
        fetched = tempfile.mkdtemp(prefix="packtrain-adapter-")
        try:
            with put_back():
                with heavy_imports():
                    from packtrain.artifacts.locate import locate
                    from packtrain.evaluate.chat import load

                shown.stage("looking for the adapter")
                located = locate(_named(adapter), Path(fetched) / "adapter")
                if verify and located.warnings:
                    raise StorageError(
                        located.warnings[0], hint="fetch it again, or verify=False takes it as it is"
                    )
                shown.stage(f"loading {located.base or located.folder}")
                model, tokenizer, disabled = load(located, base, on_progress=shown.stage)
            made = cls(model, tokenizer, located.folder, located.receipt, disabled)
        except BaseException:
            shutil.rmtree(fetched, ignore_errors=True)
            raise
        finally:
            shown.close()
        weakref.finalize(made, shutil.rmtree, fetched, ignore_errors=True)
        return made

    @sentences()
    def chat(
        self,
        messages: Messages,
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = None,
        base: bool = False,
    ) -> str:
        """The answer to ``messages``: one user's turn, or all turns so far, which end with the user's.

        ``temperature`` 0 is the likeliest answer; higher ones are drawn, with ``seed`` the same each time.
        ``base``: the base answers, without the adapter. Errors: :class:`~packtrain.errors.DataError` for
        messages that the chat template does not take.
        """
        asked = self.stream(
            messages, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, base=base
        )
        return "".join(asked).strip()

    @sentences()
    def stream(
        self,
        messages: Messages,
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = None,
        base: bool = False,
    ) -> Iterator[str]:
        """:meth:`chat` in pieces, as they come. Errors come with the call, or with the piece."""
        from packtrain.evaluate.generate import pieces, stop_ids, stream

        generator = None
        if seed is not None:
            import torch

            generator = torch.Generator().manual_seed(seed)
        ids, stop = self._tokens(messages), stop_ids(self.model, self.tokenizer)
        answering = self._base if base else nullcontext

        def tokens() -> Iterator[int]:
            with answering() as other:
                left = stream(
                    self.model if other is None else other,
                    ids,
                    stop=stop,
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                    generator=generator,
                )
            while True:
                # A token at a time: between two of them the adapter may be asked something else.
                with answering():
                    token = next(left, None)
                if token is None:
                    return
                yield token

        return pieces(self.tokenizer, tokens())

    @sentences()
    def generate(
        self, prompts: Sequence[Messages], *, max_new_tokens: int = 512, batch: int = 8, base: bool = False
    ) -> list[str]:
        """The likeliest answer to each prompt, ``batch`` of them at once; each as :meth:`chat` would give it.

        Errors: as of :meth:`chat`.
        """
        from packtrain.evaluate.batched import generate_all
        from packtrain.evaluate.generate import decode, stop_ids

        if isinstance(prompts, str):
            raise DataError("generate takes a list of prompts, and chat a single one")
        asked, stop = [self._tokens(each) for each in prompts], stop_ids(self.model, self.tokenizer)
        with self._base() if base else nullcontext() as other:
            said = generate_all(
                self.model if other is None else other,
                asked,
                stop=stop,
                max_new_tokens=max_new_tokens,
                batch=batch,
            )
        return [decode(self.tokenizer, tokens).strip() for tokens in said]

    def __repr__(self) -> str:
        of = f"run {self.receipt.name} ({self.receipt.run_id})" if self.receipt else "no receipt"
        return f"Adapter({str(self.folder)!r}, {of})"

    def _tokens(self, messages: Messages) -> list[int]:
        from packtrain.evaluate.generate import prompt_ids

        if not isinstance(messages, str):
            _check(messages)
        try:
            found = prompt_ids(self.tokenizer, messages)
        except ValueError as error:
            raise DataError(str(error)) from error
        if not found:
            raise DataError("there is nothing to answer: the prompt is empty")
        return found


def _check(messages: Any) -> None:
    """A template makes something of anything. Errors: :class:`DataError`."""
    turns = messages if isinstance(messages, list | tuple) else ()
    if not turns:
        raise DataError("messages are a text, or a list of turns that is not empty")
    for number, turn in enumerate(turns):
        keys = turn if isinstance(turn, Mapping) else {}
        said = isinstance(keys.get("content"), str) or "tool_calls" in keys
        if not isinstance(keys.get("role"), str) or not said:
            raise DataError(
                f"messages[{number}]: a turn has a role and a content, both of them texts",
                hint='such as {"role": "user", "content": "What?"}',
            )


def _named(adapter: Trained | RunConfig | str | os.PathLike[str]) -> str:
    """As :func:`packtrain.artifacts.locate.locate` takes it. Errors: :class:`ConfigError`."""
    from packtrain.api.training import Trained
    from packtrain.artifacts.locate import of_run

    if isinstance(adapter, Trained):
        place = adapter.folder or adapter.published
        if place is None:
            raise ConfigError(f"{adapter.run_dir}: the adapter is not there any more")
        return str(place)
    return of_run(adapter) if isinstance(adapter, RunConfig) else os.fspath(adapter)
