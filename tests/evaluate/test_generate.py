"""Answers: the same tokens as transformers' own greedy search, and what ends them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CHATML, make_tiny_base, token_id
from transformers import AutoModelForCausalLM, AutoTokenizer

from packtrain.errors import DivergedError
from packtrain.evaluate.generate import decode, generate, pieces, prompt_ids, stop_ids, stream


def loaded(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return loaded(make_tiny_base(tmp_path_factory.mktemp("base")))


@pytest.mark.parametrize("kind", ["llama", "llama3", "qwen3", "mistral", "gemma", "gemma3", "phi3"])
def test_greedy_as_transformers_has_it(tmp_path: Path, kind: str) -> None:
    model, tokenizer = loaded(make_tiny_base(tmp_path, kind, seed=3))
    ids = prompt_ids(tokenizer, "안녕, who are you?")
    ours = list(stream(model, ids, stop=frozenset(), max_new_tokens=48))
    theirs = model.generate(
        torch.tensor([ids]), max_new_tokens=48, min_new_tokens=48, do_sample=False, eos_token_id=None
    )
    assert ours == theirs[0, len(ids) :].tolist()


def test_the_bases_sampling_settings_change_nothing(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    before = generate(model, tokenizer, ["hello"], max_new_tokens=16)
    model.generation_config.update(do_sample=True, repetition_penalty=5.0, temperature=3.0)
    assert generate(model, tokenizer, ["hello"], max_new_tokens=16) == before


def test_an_answer_does_not_depend_on_its_neighbours(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    prompts = ["a", "a much longer prompt than the first one", "b"]
    together = generate(model, tokenizer, prompts, max_new_tokens=12)
    assert together == [generate(model, tokenizer, [p], max_new_tokens=12)[0] for p in prompts]


def test_the_stop_token_ends_it_and_is_left_out(tiny: tuple[Any, Any]) -> None:
    model, _ = tiny
    free = list(stream(model, [72, 105], stop=frozenset(), max_new_tokens=20))
    stop = free[9]
    first = free.index(stop)
    assert list(stream(model, [72, 105], stop=frozenset({stop}), max_new_tokens=20)) == free[:first]
    assert len(list(stream(model, [72, 105], stop=frozenset(), max_new_tokens=1))) == 1


def test_stop_ids(tmp_path: Path) -> None:
    """End of text as EOS, and the end of turn found in the template alone."""
    model, tokenizer = loaded(make_tiny_base(tmp_path, chat_template=CHATML))
    tokenizer.eos_token = "<|endoftext|>"
    model.generation_config.eos_token_id = [token_id("</s>"), token_id("<eos>")]
    assert stop_ids(model, tokenizer) == {
        token_id(token) for token in ("<|endoftext|>", "<|im_end|>", "</s>", "<eos>")
    }
    model.generation_config.eos_token_id = None
    tokenizer.chat_template = None
    assert stop_ids(model, tokenizer) == {token_id("<|endoftext|>")}


def test_a_template_that_refuses_the_probe_still_has_eos(tmp_path: Path) -> None:
    template = "{{ raise_exception('never') }}"
    model, tokenizer = loaded(make_tiny_base(tmp_path, chat_template=template))
    assert stop_ids(model, tokenizer) == {token_id("<|im_end|>")}


def test_prompt_is_one_users_turn(tiny: tuple[Any, Any]) -> None:
    _, tokenizer = tiny
    ids = prompt_ids(tokenizer, "hi")
    assert tokenizer.decode(ids) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    assert tokenizer.decode(prompt_ids(tokenizer, turns)).startswith("<|im_start|>system\ns<|im_end|>")


@pytest.mark.parametrize("template", ["auto", CHATML, None])
def test_exactly_one_bos(tmp_path: Path, template: str | None) -> None:
    """With BOS in the template, without it, and without a template."""
    _, tokenizer = loaded(make_tiny_base(tmp_path, "llama3", chat_template=template))
    ids = prompt_ids(tokenizer, "hi")
    assert ids[0] == token_id("<|begin_of_text|>")
    assert ids.count(ids[0]) == 1


def test_what_the_template_does_not_take(tmp_path: Path) -> None:
    _, tokenizer = loaded(make_tiny_base(tmp_path, "gemma"))
    with pytest.raises(ValueError, match="System role not supported"):
        prompt_ids(tokenizer, [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}])
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        prompt_ids(tokenizer, [{"role": "user", "content": "y"}])


def test_sampling_repeats_with_a_seed_and_varies_without_it(tiny: tuple[Any, Any]) -> None:
    model, _ = tiny

    def sampled(seed: int, temperature: float) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return list(
            stream(
                model,
                [72],
                stop=frozenset(),
                max_new_tokens=24,
                temperature=temperature,
                generator=generator,
            )
        )

    assert sampled(0, 1.0) == sampled(0, 1.0)
    assert sampled(0, 1.0) != sampled(1, 1.0)
    greedy = list(stream(model, [72], stop=frozenset(), max_new_tokens=24))
    assert sampled(0, 1e-30) == greedy


def test_nan_weights_are_no_answer(tmp_path: Path) -> None:
    model, tokenizer = loaded(make_tiny_base(tmp_path))
    model.model.norm.weight.data.fill_(torch.nan)
    with pytest.raises(DivergedError, match="NaN logits"):
        generate(model, tokenizer, ["hi"], max_new_tokens=4)


@pytest.mark.parametrize(
    "text", ["plain words", "안녕 👩‍👩‍👧 café", "  two\n\nlines \n", "", "\ufffd", "end 👩"]
)
def test_pieces_are_the_text_and_never_half_a_character(tiny: tuple[Any, Any], text: str) -> None:
    _, tokenizer = tiny
    tokens: Iterator[int] = iter(tokenizer(text)["input_ids"])
    streamed = list(pieces(tokenizer, tokens))
    assert "".join(streamed) == text
    assert text == "\ufffd" or not any("\ufffd" in piece for piece in streamed)


def test_pieces_of_a_torn_character_come_at_the_end(tiny: tuple[Any, Any]) -> None:
    _, tokenizer = tiny
    tokens = tokenizer("a안")["input_ids"][:-1]
    streamed = list(pieces(tokenizer, iter(tokens)))
    assert streamed[0] == "a"
    assert "".join(streamed) == decode(tokenizer, tokens)


def test_special_tokens_are_not_shown(tiny: tuple[Any, Any]) -> None:
    _, tokenizer = tiny
    tokens = tokenizer("a<|im_start|>b")["input_ids"]
    assert "".join(pieces(tokenizer, iter(tokens))) == decode(tokenizer, tokens) == "ab"
