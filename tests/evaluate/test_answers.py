"""Before and after: whose answers they are, what counts as right, and how they are shown."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny import make_tiny_base
from trained import plain_base
from transformers import AutoTokenizer

from packtrain.config import AdapterConfig, Prompt
from packtrain.evaluate.answers import Answer, answers, is_right, render_plain, render_table, score
from packtrain.evaluate.generate import generate
from packtrain.model.adapter import add_adapter


@pytest.mark.parametrize(
    ("answer", "expect", "right"),
    [
        ("It ends with exit code 75.", ["75"], True),
        ("It ends with exit code 75", ["7"], False),
        ("175", ["75"], False),
        ("code75", ["75"], True),
        ("Roles/Storage.ObjectUser", ["roles/storage.objectuser"], True),
        ("five\n  minutes", ["5 minutes", "five minutes"], True),
        ("Straße", ["STRASSE"], True),
        ("체크포인트는 5분마다", ["5분"], True),
        ("anything", ["(.*)"], False),
        ("", ["x"], False),
        ("something", ["", " "], False),
        ("receipts.json", ["receipt.json"], False),
    ],
)
def test_is_right(answer: str, expect: list[str], right: bool) -> None:
    assert is_right(answer, expect) is right


def test_base_and_adapter_answer_each_for_itself(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = plain_base(base)
    [alone] = generate(model, tokenizer, ["who?"], max_new_tokens=12)
    adapter = add_adapter(model, AdapterConfig(rank=4), seed=0)
    generator = torch.Generator().manual_seed(5)
    for weight in adapter.parameters():
        weight.data.normal_(std=0.3, generator=generator)
    [adapted] = generate(model, tokenizer, ["who?"], max_new_tokens=12)
    assert adapted != alone

    layer = next(iter(adapter.layers.values()))
    layer.train()
    seen: list[tuple[int, int]] = []
    made = answers(
        model,
        tokenizer,
        ["who?", Prompt(prompt="who?", expect=adapted)],
        max_new_tokens=12,
        base=adapter.disabled,
        on_progress=lambda done, all_: seen.append((done, all_)),
    )
    assert [(a.base, a.adapter) for a in made] == [(alone, adapted)] * 2
    assert [(a.right_before, a.right_after) for a in made] == [(None, None), (False, True)]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert layer.training
    assert not model.training


def test_a_system_prompt_stands_before_every_prompt(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = plain_base(base)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "who?"}]
    [expected] = generate(model, tokenizer, [turns], max_new_tokens=12)
    [plain] = generate(model, tokenizer, ["who?"], max_new_tokens=12)
    assert expected != plain
    [made] = answers(
        model, tokenizer, ["who?"], max_new_tokens=12, base=contextlib.nullcontext, system="Be brief."
    )
    assert (made.prompt, made.base, made.adapter) == ("who?", expected, expected)


MADE = [
    Answer("Which code?", "I don't [bold]know", "75", ("75",)),
    Answer("Which file?", "events.jsonl", "events.jsonl", ("events.jsonl",)),
    Answer("How many?", "\n", "many,\nmany", ("seven",)),
    Answer("Say hi", "hi", "ho"),
]


def test_score_counts_what_is_expected_alone() -> None:
    counted = score(MADE)
    assert counted is not None
    assert (counted.before, counted.after, counted.asked) == (1, 2, 3)
    assert str(counted) == "right before: 1 of 3 (33%), after: 2 of 3 (67%)"
    assert score(MADE[3:]) is None
    assert score([]) is None


def test_table_shows_brackets_and_marks() -> None:
    screen = io.StringIO()
    Console(file=screen, width=100, color_system=None).print(render_table(MADE))
    shown = screen.getvalue()
    assert "✗ I don't [bold]know" in shown
    assert "✓ 75" in shown
    assert "before (base)" in shown


def test_plain_is_one_line_each() -> None:
    lines = render_plain(MADE).splitlines()
    assert len(lines) == 3 * len(MADE)
    assert lines[1:3] == ["before:  ✗ I don't [bold]know", "after:   ✓ 75"]
    assert lines[8] == "after:   ✗ many, many"
    assert lines[11] == "after:   ho"


def test_what_a_model_says_steers_no_terminal() -> None:
    nasty = Answer("a\x1b[2Jb", "\x07bell \x9b31m\u202eold", "줄\u3000하나 👩\u200d🚀\tok")
    screen = io.StringIO()
    Console(file=screen, width=120, color_system=None).print(render_table([nasty]))
    for shown in (render_plain([nasty]), screen.getvalue()):
        assert not any(sign in shown for sign in "\x1b\x07\x9b\u202e")
        assert r"a\x1b[2Jb" in shown
        assert r"\x07bell \x9b31m\u202eold" in shown
        assert "👩\u200d🚀" in shown


def test_json_says_what_was_right() -> None:
    assert MADE[0].to_json() == {
        "prompt": "Which code?",
        "base": "I don't [bold]know",
        "adapter": "75",
        "expect": ("75",),
        "right_before": False,
        "right_after": True,
    }
