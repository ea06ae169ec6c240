"""Answers of a model, token by token: greedy for comparisons, sampled for talk.

The loop is ours because ``generate`` of transformers takes sampling, penalties and lengths from the
base's ``generation_config.json``, and a comparison of base and adapter must depend on nothing but
the two models. One prompt at a time: no padding, so that an answer does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from packtrain.errors import DivergedError

if TYPE_CHECKING:
    import torch

Message = Mapping[str, Any]
_PROBE = "answer"


def prompt_ids(tokenizer: Any, prompt: str | Sequence[Message]) -> list[int]:
    """Tokens up to where the answer begins: a text is one user's turn, rendered by the chat template.

    Without a chat template a text is continued as it stands. Exactly one BOS where the tokenizer has
    one. Raises ValueError with the template's sentence for messages that it does not take.
    """
    if tokenizer.chat_template is None:
        if not isinstance(prompt, str):
            raise ValueError("the tokenizer has no chat template: it continues texts and has no turns")
        text = prompt
    else:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        text = render(tokenizer, messages, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and bos in tokenizer("", add_special_tokens=True)["input_ids"][:1]
    return [bos, *ids] if adds_bos and ids[:1] != [bos] else ids


def render(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    """By the chat template. Raises ValueError with its sentence for messages that it does not take."""
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )
    except TemplateError as error:
        raise ValueError(f"the chat template does not take these messages: {error}") from error


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: those of the generation config, EOS, and the template's end of turn.

    The end of turn is found by a property: the first special token that the template puts after an
    answer. (Some bases name only the end of text as EOS.)
    """
    configured = getattr(model.generation_config, "eos_token_id", None)
    found = set(configured if isinstance(configured, list) else [configured])
    found.add(tokenizer.eos_token_id)
    if tokenizer.chat_template is not None:
        found.add(end_of_turn(tokenizer))
    return frozenset(token for token in found if token is not None)


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token that the chat template puts behind an answer; None where it puts none."""
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _PROBE}]
    try:
        rendered = render(tokenizer, turns, add_generation_prompt=False)
    except ValueError:
        return None
    tail = rendered.rpartition(_PROBE)[2]
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    return next((token for token in ids if token in special), None)


def stream(
    model: Any,
    ids: Sequence[int],
    *,
    stop: frozenset[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """New tokens after ``ids``, one by one, without the one that ends the answer.

    ``temperature`` 0 takes the likeliest token; otherwise drawn from softmax(logits / temperature)
    with ``generator`` (on the CPU). Raises DivergedError for NaN logits.
    """
    import torch

    step = torch.tensor([list(ids)], device=model.device)
    cache = None
    for _ in range(max_new_tokens):
        with torch.inference_mode():
            output = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits, cache = output.logits[0, -1].float().cpu(), output.past_key_values
        if bool(logits.isnan().any()):
            raise DivergedError("the model gives NaN logits while answering")
        if temperature > 0:
            # Shifted by the largest: a small temperature must not overflow.
            shares = ((logits - logits.max()) / temperature).softmax(-1)
            token = int(torch.multinomial(shares, 1, generator=generator))
        else:
            token = int(logits.argmax())
        if token in stop:
            return
        yield token
        step = torch.tensor([[token]], device=model.device)


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Text of an answer, without special tokens."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def pieces(tokenizer: Any, tokens: Iterator[int]) -> Iterator[str]:
    """Text that is final, as the tokens come: a character of several tokens waits for its last one.

    Each time only the tokens of the last piece are decoded again, as what follows may join to them:
    a long answer costs linear time, and the spaces between words are right.
    """
    seen: list[int] = []
    begin = end = 0
    for token in tokens:
        seen.append(token)
        known, text = decode(tokenizer, seen[begin:end]), decode(tokenizer, seen[begin:])
        if len(text) > len(known) and not text.endswith("\ufffd"):
            yield text[len(known) :]
            begin, end = end, len(seen)
    rest = decode(tokenizer, seen[begin:])[len(decode(tokenizer, seen[begin:end])) :]
    if rest:
        yield rest


def generate(
    model: Any, tokenizer: Any, prompts: Sequence[str | Sequence[Message]], *, max_new_tokens: int
) -> list[str]:
    """The greedy answer to each prompt, stripped. The model must be in eval mode, its attention plain."""
    stop = stop_ids(model, tokenizer)
    texts = []
    for prompt in prompts:
        tokens = stream(model, prompt_ids(tokenizer, prompt), stop=stop, max_new_tokens=max_new_tokens)
        texts.append(decode(tokenizer, list(tokens)).strip())
    return texts
