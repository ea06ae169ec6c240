"""Conversations to tokens, with the mask of what the model is trained to say.

**How the mask is found.** The tokenizer's chat template renders; no template is known by name.
For an assistant's turn *i*, the rendering of the messages before it *with the generation prompt*
is exactly what the model sees when it begins to answer. Where the whole rendering begins with that
text (or, where a system prompt or tools move to a later turn, goes on like it from the content of
the message before), the supervised span begins there, and it ends with the first special token
after the turn's content: the end of turn, the token that stops generation. What the template writes
behind that token (a line break, the next header) is not supervised. Where a template breaks this
property (an answer's thoughts are cut out, no generation prompt), the conversation is rendered once
more with a stand-in for the turn's content: what is the same before and after the stand-in is
scaffolding, what lies between is the answer. Where that does
not hold either, it is an error, never a silent wrong mask. The mask is made by position in the
text, never by the value of a token, so that an end of turn is trained even where it is also the
padding token.

Two more properties are looked up and not assumed: the BOS is whatever the tokenizer itself puts in
front of a text; and a control token of the template inside a message's text would forge a turn, so
that such a row is bad.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from packtrain.data.formats import Conversation
from packtrain.data.masks import (
    SENTINEL,
    Markers,
    Message,
    RenderError,
    Span,
    UnmaskableError,
    assistant_spans,
    trained_turns,
)
from packtrain.data.reasoning import THINK, VanishedError, key_of, learnt, spelled
from packtrain.data.rows import BadRow
from packtrain.data.strings import strings
from packtrain.data.system import leaves_out_system
from packtrain.data.templates import TODAY, named_templates
from packtrain.data.tokens import any_of, bos_of, token_from
from packtrain.data.tool_calls import A_TOOL, check_rendered, end_of_call, wants_text, with_text
from packtrain.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Of texts that are tokenised together: enough to keep all cores busy.
CHARACTERS = 1 << 20
_PROBES: tuple[tuple[Message, ...], ...] = (
    ({"role": "user", "content": "question"}, {"role": "assistant", "content": SENTINEL}),
    (
        {"role": "system", "content": "rules"},
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": SENTINEL},
    ),
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row as the model sees it: both arrays have one entry a token."""

    tokens: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.bool_]
    thoughtless: int = 0
    """Assistant turns that are not supervised, since the template leaves out what they think."""
    weight: float = 1.0
    """What the row's loss counts."""


@dataclass(frozen=True, slots=True)
class _Rendered:
    text: str
    spans: list[Span]
    thoughtless: int = 0


def template_text(value: str | None) -> str | None:
    """``model.chat_template`` as a template: read, where it is a file. ConfigError if unreadable."""
    if value is None or any(sign in value for sign in ("{{", "{%", "\n")):
        return value
    try:
        return Path(value).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise ConfigError(f"model.chat_template: cannot read {value}: {reason}") from error


class ChatTemplate:
    """A tokenizer with its chat template, or with ``template`` (Jinja text) in place of it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> None:
        if not tokenizer.is_fast:
            raise ConfigError(
                f"model.source: {type(tokenizer).__name__} gives no character offsets",
                hint="use a model with a fast tokenizer (a tokenizer.json)",
            )
        self.tokenizer = tokenizer
        self._templates = named_templates(tokenizer, template)
        self._bos = bos_of(tokenizer)
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special |= set(tokenizer.all_special_tokens)
        special -= THINK  # a text may think aloud: that forges no turn
        self._markers = Markers(any_of(special), frozenset(filter(None, [tokenizer.eos_token])))
        self._control = self._learn_markers(special)

    @cached_property
    def identity(self) -> str:
        """SHA-256, in hex, over all of the tokenizer and the templates that tokens follow from."""
        tokenizer = self.tokenizer
        facts = {
            "class": type(tokenizer).__name__,
            "tokenizer": tokenizer.backend_tokenizer.to_str(),
            "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
            "templates": self._templates,
            "bos": self._bos,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def has_template(self) -> bool:
        return bool(self._templates)

    @cached_property
    def leaves_out_system(self) -> bool:
        """Whether what a system turn says is not in the text; False where such a turn is refused."""
        return self.has_template and leaves_out_system(self.render)

    def render(self, messages: Sequence[Message]) -> str:
        """A whole conversation as text. Errors: :class:`~.masks.RenderError`."""
        return self._render(messages, False)

    def control_token(self, text: str) -> str | None:
        """The first of the template's control tokens in ``text``, which would forge a turn."""
        found = self._control.search(text)
        return found[0] if found else None

    @cached_property
    def _text_arguments(self) -> bool:
        return wants_text(self._render_call)

    def _render_call(self, messages: Sequence[Message], prompt: bool) -> str:
        """By the template that rows with tools get."""
        return self._render(messages, prompt, A_TOOL if "tool_use" in self._templates else None)

    @cached_property
    def _reasoning_key(self) -> str | None:
        return key_of(self._render)

    def _learn_markers(self, special: set[str]) -> re.Pattern[str]:
        """Complete the stop tokens; return a pattern for the control tokens that texts must not hold."""
        stops: set[str] = set(self._markers.stops)
        control = stops | set(filter(None, [self.tokenizer.bos_token]))
        for template in self._templates.values():
            control |= {token for token in special if token in template}
        for probe in _PROBES if self._templates else ():
            try:
                text = self._render(probe, False) + self._render(probe[:-1], True)
            except RenderError:
                continue
            control.update(match[0] for match in self._markers.special.finditer(text))
            _, _, after = text.partition(SENTINEL)
            if end := self._markers.special.search(after):
                stops.add(end[0])
        if self._templates and (
            end_token := end_of_call(self._render_call, self._markers, self._text_arguments)
        ):
            stops.add(end_token)
            control.add(end_token)
        self._markers = Markers(self._markers.special, frozenset(stops))
        return any_of(control)

    def encode(self, conversation: Conversation, place: str = "row") -> Encoded:
        """One conversation; raises :class:`BadRow`. See :meth:`encode_batch`."""
        (result,) = self.encode_batch([(place, conversation)])
        if isinstance(result, BadRow):
            raise result
        return result

    def encode_batch(self, rows: Sequence[tuple[str, Conversation]]) -> list[Encoded | BadRow]:
        """Tokens and mask of (place, conversation) pairs, in order; a bad one is returned, not raised.

        Errors: ConfigError without a template or an EOS, DataError where a mask cannot be established.
        """
        texts: list[_Rendered | BadRow] = []
        for place, conversation in rows:
            try:
                texts.append(self._text_and_spans(place, conversation))
            except BadRow as bad:
                texts.append(bad)
        encodings = self._tokenized([item.text for item in texts if not isinstance(item, BadRow)])
        return [
            item if isinstance(item, BadRow) else self._encoded(place, conversation, item, next(encodings))
            for (place, conversation), item in zip(rows, texts, strict=True)
        ]

    def _text_and_spans(self, place: str, conversation: Conversation) -> _Rendered:
        if conversation.text is not None:
            return _Rendered(conversation.text, [(0, len(conversation.text))])
        if not self._templates:
            raise ConfigError(
                "model.chat_template: the tokenizer of model.source has no chat template, and none is given",
                hint="set model.chat_template to a Jinja file or template, or train on format: text",
            )
        messages = conversation.messages
        for field, text in strings(messages, conversation.tools):
            if forged := self.control_token(text):
                raise BadRow(
                    place,
                    conversation.in_row(field),
                    f"holds the control token {forged}, which would forge a turn",
                )

        def render(part: Sequence[Message], prompt: bool) -> str:
            return self._render(part, prompt, conversation.tools)

        try:
            given = spelled(messages, lambda: self._reasoning_key)
            given = with_text(given) if self._text_arguments else given
            text, spans = assistant_spans(given, render, self._markers)
            check_rendered(messages, trained_turns(messages), text, spans)
            return _Rendered(text, *learnt(messages, given, text, spans, render))
        except VanishedError as error:
            raise DataError(f"{place}: {conversation.in_row(str(error))}", hint=error.hint) from error
        except RenderError as error:
            raise BadRow(place, "", f"the chat template refuses it: {error}") from error
        except UnmaskableError as error:
            said = conversation.in_row(str(error))
            raise DataError(
                f"{place}: the chat template does not show what the assistant says: {said}",
                hint="give another template with model.chat_template",
            ) from error

    def _render(self, messages: Sequence[Message], prompt: bool, tools: list[Any] | None = None) -> str:
        import jinja2

        template = self._templates.get("tool_use" if tools else "default", self._templates["default"])
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages),
                    tools=tools,
                    chat_template=template,
                    add_generation_prompt=prompt,
                    tokenize=False,
                    date_string=f"{TODAY:%d %b %Y}",
                )
            )
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"model.chat_template: line {error.lineno}: {error.message}") from error
        except jinja2.TemplateError as error:
            raise RenderError(error.message or type(error).__name__) from error
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            # A template that adds a list to a string, say; the message may hold contents of the row.
            raise RenderError(f"it fails with {type(error).__name__}") from error

    def _tokenized(self, texts: list[str]) -> Iterator[Any]:
        """The encoding of each text; made for some at a time, for an encoding is many times its text."""
        start = 0
        while start < len(texts):
            stop, characters = start, 0
            while stop < len(texts) and (stop == start or characters + len(texts[stop]) <= CHARACTERS):
                characters += len(texts[stop])
                stop += 1
            batch = self.tokenizer(
                texts[start:stop], add_special_tokens=False, truncation=False, padding=False,
                return_offsets_mapping=False, return_attention_mask=False, verbose=False,
            )  # fmt: skip
            yield from batch.encodings
            start = stop

    def _encoded(
        self, place: str, conversation: Conversation, item: _Rendered, encoding: Any
    ) -> Encoded | BadRow:
        text, spans = item.text, item.spans
        tokens = np.array(encoding.ids, dtype=np.int32)
        supervised = np.zeros(len(tokens), dtype=np.bool_)
        for start, end in spans:
            first, last = token_from(encoding, start, text), token_from(encoding, end, text)
            supervised[first:last] = True
            if conversation.text is None and (
                last == first or not self._stops(int(tokens[last - 1]), text, end)
            ):
                raise DataError(f"{place}: the end of an assistant's turn is not a token of its own")
        if conversation.text is not None:
            tokens, supervised = self._with_eos(tokens, supervised)
        encoded = self._with_bos(place, tokens, supervised)
        if item.thoughtless and isinstance(encoded, Encoded):
            return replace(encoded, thoughtless=item.thoughtless)
        return encoded

    def _stops(self, token: int, text: str, end: int) -> bool:
        name = self.tokenizer.convert_ids_to_tokens(token)
        return text.endswith(str(name), 0, end)

    def _with_eos(
        self, tokens: npt.NDArray[np.int32], supervised: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise ConfigError("model.source: the tokenizer has no EOS token to end a text with")
        if len(tokens) and tokens[-1] == eos:
            return tokens, supervised
        return np.append(tokens, np.int32(eos)), np.append(supervised, True)

    def _with_bos(
        self, place: str, tokens: npt.NDArray[np.int32], supervised: npt.NDArray[np.bool_]
    ) -> Encoded | BadRow:
        bos = self._bos if self._bos is not None else self.tokenizer.bos_token_id
        if bos is not None and len(tokens) > 1 and tokens[0] == tokens[1] == bos:
            return BadRow(place, "", "begins with two BOS tokens once it is rendered")
        if len(tokens) and tokens[0] == bos:
            supervised[0] = False
        elif self._bos is not None:
            tokens = np.concatenate((np.array([self._bos], dtype=np.int32), tokens))
            supervised = np.concatenate((np.zeros(1, dtype=np.bool_), supervised))
        return Encoded(tokens, supervised)
