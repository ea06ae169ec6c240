"""Whole runs on bases and data of many kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import CHATML, make_tiny_base
from whole_run import Job, facts, make_job, write_rows

TOOLS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] %}{{ message['content'] }}{% endif %}"
    "{% if message['tool_calls'] %}{{ message['tool_calls'] | tojson }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("llama", {"pad_is_eos": True}),
        ("llama", {"tied": True}),
        ("llama3", {}),
        ("qwen3", {}),
        ("gemma3", {"tied": True}),
    ],
)
def test_bases_of_many_kinds(tmp_path: Path, kind: str, more: dict[str, Any]) -> None:
    job = make_job(tmp_path / "job", make_tiny_base(tmp_path / "base", kind, **more))
    job.done()
    metrics = job.receipt()["metrics"]
    assert metrics["loss"] < metrics["base_loss"]
    assert metrics["reload_logit_error"] < 1e-4


def test_a_bfloat16_base_trains_on_a_cpu_and_passes_the_reload_check(job: Job) -> None:
    job.done("-s", "model.dtype=bfloat16")
    receipt = job.receipt()
    assert receipt["metrics"]["loss"] < receipt["metrics"]["base_loss"]
    assert job.story("start")[0].fields["dtype"] == "bfloat16"


class TestWithoutChatTemplate:
    @pytest.fixture
    def job(self, tmp_path: Path) -> Job:
        return make_job(tmp_path / "job", make_tiny_base(tmp_path / "base", chat_template=None))

    def test_it_is_asked_for(self, job: Job) -> None:
        refused = job.train()
        assert refused.code == 78
        assert "model.chat_template" in refused.err

    @pytest.mark.parametrize("as_file", [True, False])
    def test_it_is_given_and_goes_with_the_adapter(self, job: Job, as_file: bool) -> None:
        (job.folder / "chat.jinja").write_text(CHATML)
        job.done("-s", f"model.chat_template={'chat.jinja' if as_file else json.dumps(CHATML)}")
        assert (job.run_dir.adapter / "chat_template.jinja").read_text() == CHATML


def conversations() -> list[dict[str, Any]]:
    """Multi-turn, tools, Korean, Unicode of all planes, and a row of 9,000 tokens."""
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "서울"}}}
    return [
        {
            "messages": [
                {"role": "system", "content": "답은 짧게."},
                {"role": "user", "content": "서울 날씨는?"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": '{"temperature": 21}'},
                {"role": "assistant", "content": "21도입니다. ☀️"},
                {"role": "user", "content": "고마워 👩‍👩‍👧‍👦"},
                {"role": "assistant", "content": "천만에요 \U0001f600 é ﷽ \u202eabc"},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": "x" * 100},
                {"role": "assistant", "content": "가" * 3000},
            ]
        },
        *(
            {
                "messages": [
                    {"role": "user", "content": f"{i}?"},
                    {"role": "assistant", "content": f"{i}!"},
                ]
            }
            for i in range(12)
        ),
    ]


@pytest.mark.parametrize("max_length", [512, pytest.param(16_384, marks=pytest.mark.slow)])
def test_conversations_of_all_sorts(tmp_path: Path, max_length: int) -> None:
    tiny = make_tiny_base(tmp_path / "base", chat_template=TOOLS)
    job = make_job(
        tmp_path / "job",
        tiny,
        rows=conversations(),
        data={"max_length": max_length, "validation": 0},
        train={"epochs": 2},
    )
    ended = job.done()
    receipt = job.receipt()
    assert receipt["metrics"]["loss"] is None
    assert receipt["metrics"]["train_loss"] > 0
    cut = max_length == 512
    assert ("longer than data.max_length 512 and cut" in ended.err) == cut
    assert max(event.fields["tokens"] for event in job.story("step")) > (9000 if not cut else 500)


def test_an_empty_context_and_a_text_source_of_validation(tmp_path: Path, base: Path) -> None:
    job = make_job(tmp_path / "job", base, data={"validation": "held-out.jsonl"})
    write_rows(job.folder / "held-out.jsonl", facts(5, first=100))
    job.done()
    assert job.receipt()["data"]["sources"]["validation"]["files"][0]["name"].endswith("held-out.jsonl")
