"""Talk with an adapter on its base, by plain peft, or with a whole model: turns, answers as they come."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from packtrain.artifacts.locate import LocatedAdapter, base_config
from packtrain.artifacts.peft_model import open_with_peft
from packtrain.config import ModelConfig
from packtrain.errors import ConfigError, UsageError
from packtrain.evaluate.generate import pieces, prompt_ids, stop_ids, stream

if TYPE_CHECKING:
    import torch


@dataclass
class Chat:
    """One conversation. Inside ``disabled()`` the base answers: the model that it gives, or, where it
    gives None, ``model``, out of which it has taken the adapter.
    """

    model: Any
    tokenizer: Any
    disabled: Callable[[], AbstractContextManager[Any]]
    max_new_tokens: int
    temperature: float = 0.0
    system: str | None = None
    generator: torch.Generator | None = None
    history: list[dict[str, str]] = field(default_factory=list)
    _stop: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self._stop = stop_ids(self.model, self.tokenizer)
        if self.system is not None and self.tokenizer.chat_template is None:
            raise UsageError("--system: the tokenizer has no chat template, so there are no turns")

    def ask(self, prompt: str, *, base: bool = False) -> Generator[str]:
        """The answer in pieces. What came of it, stopped early or not, is the history's next turn.

        With ``base`` the base answers, and the history stays as it is.
        """
        turns = [*self.history, {"role": "user", "content": prompt}]
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        has_turns = self.tokenizer.chat_template is not None
        try:
            ids = prompt_ids(self.tokenizer, [*system, *turns] if has_turns else prompt)
        except ValueError as error:
            raise UsageError(str(error)) from error
        said: list[str] = []
        try:
            with self.disabled() if base else contextlib.nullcontext() as other:
                tokens = stream(
                    self.model if other is None else other,
                    ids,
                    stop=self._stop,
                    max_new_tokens=self.max_new_tokens,
                    temperature=self.temperature,
                    generator=self.generator,
                )
                for piece in pieces(self.tokenizer, tokens):
                    said.append(piece)
                    yield piece
        finally:
            if said and not base:
                self.history = [*turns, {"role": "assistant", "content": "".join(said).strip()}]

    def reset(self) -> None:
        """Forget the turns; the system message stays."""
        self.history = []


def load(
    located: LocatedAdapter,
    base: str | None,
    *,
    four_bits: bool | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> tuple[Any, Any, Callable[[], AbstractContextManager[Any]]]:
    """What was trained, its tokenizer, and :attr:`Chat.disabled`. ``base``: as for :func:`base_config`.

    ``four_bits``: whether the base stands in NF4; None: as the receipt says that it was trained, where that
    can be. Errors: :class:`ConfigError` where it cannot, :class:`UsageError` for a whole model, and those of
    :func:`packtrain.model.weights.resolve_base`.

    On the first GPU in bfloat16 where there is one, else on the CPU in float32. The base of a whole model
    is loaded when it is first asked.
    """
    import torch

    from packtrain.model.weights import BaseFiles, load_model, load_tokenizer, resolve_base

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    dtype = torch.bfloat16 if cuda and torch.cuda.is_bf16_supported() else torch.float32
    own = BaseFiles(located.folder, str(located.folder), None, str(located.folder))
    packed = _in_4_bits(located, four_bits, on_progress)

    def load_base() -> tuple[Any, BaseFiles, ModelConfig]:
        config = base_config(located, base)
        files = resolve_base(config, on_progress=on_progress)
        return load_model(files, config, device=device, dtype=dtype, packed=packed), files, config

    if located.full:
        config = ModelConfig(source=str(located.folder))
        model = load_model(own, config, device=device, dtype=dtype)
        asked = functools.cache(load_base)
        return model, load_tokenizer(own, config), lambda: contextlib.nullcontext(asked()[0])
    plain, files, config = load_base()
    adapted = open_with_peft(plain, located.folder)
    # The adapter's own tokenizer where it has one: its chat template is the one that was trained with.
    if (located.folder / "tokenizer_config.json").is_file():
        files = own
    return adapted, load_tokenizer(files, config), adapted.disable_adapter


def _in_4_bits(
    located: LocatedAdapter, asked: bool | None, on_progress: Callable[[str], None] | None
) -> bool:
    """Whether the base is to stand as the adapter was trained on it (QLoRA), and can."""
    if asked and located.full:
        raise UsageError(f"{located.folder}: a whole model stands on no base in 4 bits")
    trained = located.receipt is not None and located.receipt.kind == "qlora"
    there = find_spec("bitsandbytes") is not None
    if asked and not there:
        raise ConfigError(
            "a base in 4 bits needs bitsandbytes, which is not installed",
            hint="pip install 'packtrain[qlora]'",
        )
    packed = (trained and there) if asked is None else asked
    if on_progress and trained and packed:
        on_progress("the base stands in 4 bits, as the adapter was trained on it")
    elif on_progress and trained:
        why = "" if there else ", which needs packtrain[qlora]"
        on_progress(
            f"the adapter was trained on a base in 4 bits{why}; on the plain base its answers differ a little"
        )
    return packed
