"""init --from: column maps, roles and system prompts of other trainers' data sets mean the same here.

The data sets are those of the projects' own guides: Axolotl's docs/dataset-formats, LLaMA-Factory's
data/README.md, torchtune's basics on chat and instruct data sets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from packtrain.config import DataConfig, RunConfig
from packtrain.data.columns import Columns
from packtrain.data.rows import Row
from packtrain.runfile.document import Document
from packtrain.runfile.elsewhere import Translated, translate

PAIR = ({"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"})
SYSTEM = {"role": "system", "content": "S"}
AXOLOTL = "base_model: a/b\nlearning_rate: 1e-4\nadapter: lora\nlora_target_linear: true\n"
FACTORY = "model_name_or_path: a/b\nstage: sft\nfinetuning_type: lora\ndataset: mine\n"
TORCHTUNE = """\
model: {_component_: torchtune.models.llama3_1.lora_llama3_1_8b, lora_attn_modules: [q_proj]}
checkpointer: {_component_: torchtune.training.FullModelHFCheckpointer, checkpoint_dir: /models/x}
optimizer: {_component_: torch.optim.AdamW, lr: 3e-4}
epochs: 1
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(text: str) -> tuple[DataConfig, Translated]:
    Path("theirs.yml").write_text(text)
    translated = translate(Path("theirs.yml"), 1)
    Path("ours.yaml").write_text(translated.text)
    return RunConfig.model_validate(Document.read(Path("ours.yaml")).data).data, translated


def messages(data: DataConfig, row: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """A row as the run would read it."""
    columns = Columns.of(data)
    format = columns.detect(row) if data.format == "auto" else data.format
    return columns.conversation(Row("x.jsonl:1", row), format).messages


def axolotl(*entries: dict[str, Any], **more: Any) -> tuple[DataConfig, Translated]:
    sets = [{"path": f"rows{index}.jsonl", **entry} for index, entry in enumerate(entries)]
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in {"datasets": sets, **more}.items()]
    return made(AXOLOTL + "".join(lines))


def factory(entry: dict[str, Any], more: str = "") -> tuple[DataConfig, Translated]:
    Path("data").mkdir()
    Path("data/dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.json"} | entry}))
    return made(FACTORY + more)


def torchtune(**dataset: Any) -> tuple[DataConfig, Translated]:
    entry = {"source": "json", "data_files": "rows.json"} | dataset
    entry["_component_"] = f"torchtune.datasets.{entry['_component_']}"
    return made(f"{TORCHTUNE}dataset: {json.dumps(entry)}\n")


def left_of_rows(translated: Translated) -> list[str]:
    about = ("field", "roles", "message", "columns", "tags", "column", "system", "conversation")
    return [what for what, _ in translated.left if any(word in what.lower() for word in about)]


@pytest.mark.parametrize(
    ("entry", "row", "expected"),
    [
        (
            {"type": "chat_template", "field_messages": "conversations",
             "message_property_mappings": {"role": "from", "content": "value"}},
            {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
            PAIR,
        ),
        (
            {"type": "chat_template", "field_messages": "talk", "message_field_role": "who",
             "message_field_content": "says",
             "roles": {"user": ["customer", "human"], "assistant": ["agent"]}},
            {"talk": [{"who": "customer", "says": "Q"}, {"who": "agent", "says": "A"}]},
            PAIR,
        ),
        (
            {"type": "chat_template", "roles": {"user": ["human"], "assistant": ["gpt"]}},
            {"messages": [{"role": "human", "content": "Q"}, {"role": "gpt", "content": "A"}]},
            PAIR,
        ),
        (
            {"type": "chat_template", "message_field_training": "learn", "field_thinking": "cot",
             "field_system": "system"},
            {"messages": [PAIR[0], {**PAIR[1], "learn": False, "cot": "hm"}], "system": "S"},
            (SYSTEM, PAIR[0], {**PAIR[1], "train": False, "reasoning_content": "hm"}),
        ),
        (
            {"type": {"field_instruction": "question", "field_output": "answer", "field_system": "rules"}},
            {"question": "Q", "answer": "A", "rules": "S"},
            (SYSTEM, *PAIR),
        ),
        (
            {"type": "sharegpt"},
            {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
            PAIR,
        ),
    ],
)  # fmt: skip
def test_axolotls_rows(entry: dict[str, Any], row: dict[str, Any], expected: Any) -> None:
    data, translated = axolotl(entry)
    assert messages(data, row) == expected
    assert left_of_rows(translated) == []


def test_axolotls_text_of_another_name_and_its_own_wording() -> None:
    data, _ = axolotl({"type": "completion", "field": "body"})
    assert (data.format, data.columns) == ("text", {"text": "body"})
    data, translated = axolotl(
        {"type": {"field_output": "o", "format": "[INST] {instruction}", "system_prompt": "S"}}
    )
    assert (data.columns, data.system) == ({"output": "o"}, "S")
    assert [what for what, _ in translated.left if "INST" in what] == [
        "datasets[0].type.format: [INST] {instruction}"
    ]


def test_what_of_a_data_set_has_no_place_is_listed() -> None:
    data, translated = axolotl(
        {"type": "alpaca", "field_system": "rules", "roles": {"user": ["x"]}, "unheard_of": 2},
        {"type": "chat_template", "message_property_mappings": {"role": "role", "name": "n"},
         "roles": {"user": ["user"], "critic": ["judge"]}, "train_on_eos": "turn"},
    )  # fmt: skip
    assert (data.format, data.columns, data.roles) == ("auto", {}, {})
    left = [what for what, _ in translated.left]
    for what in (
        "datasets[0].field_system: rules",
        'datasets[0].roles: {"user": ["x"]}',
        "datasets[0].unheard_of: 2",
        "datasets[1].message_property_mappings.name: n",
        'datasets[1].roles.critic: ["judge"]',
        "datasets[1].train_on_eos: turn",
    ):
        assert what in left
    _, translated = torchtune(_component_="alpaca_dataset", column_map={"instruction": "q", "extra": "e"})
    assert "dataset.column_map.extra: e" in [what for what, _ in translated.left]


def test_axolotls_system_prompt_for_all() -> None:
    data, translated = axolotl({"type": "chat_template"}, default_system_message="Be brief.\nBe kind.")
    assert data.system == "Be brief.\nBe kind."
    assert left_of_rows(translated) == []


def test_data_sets_of_several_formats_keep_what_is_the_same_for_all() -> None:
    talks = {"type": "chat_template", "message_property_mappings": {"role": "who", "content": "said"}}
    data, translated = axolotl(
        talks | {"path": "a/talks", "split": "train[:100]"},
        {"type": "alpaca", "path": "a/pairs", "shards": 4},
        default_system_message="Be brief.",
    )
    assert [(each.source, each.weight, each.format, each.limit) for each in data.mixture] == [
        ("a/talks", 1.0, "sharegpt", 100),
        ("a/pairs", 0.25, "alpaca", None),
    ]
    assert (data.format, data.columns, data.system) == ("auto", {}, "Be brief.")
    assert any(what.startswith("datasets[0]: columns ") for what, _ in translated.left)


def test_a_system_prompt_does_not_begin_texts() -> None:
    sets = ({"type": "completion"}, {"type": "chat_template"})
    data, translated = axolotl(*sets, default_system_message="Be brief.")
    assert [each.format for each in data.mixture] == ["text", "messages"]
    assert data.system is None
    assert "default_system_message" in [what for what, _ in translated.left]


def test_sources_that_differ_are_listed_and_those_alike_are_carried() -> None:
    same = {"type": "chat_template", "field_messages": "talk"}
    data, _ = axolotl(same, same)
    assert (data.format, data.columns) == ("sharegpt", {"conversations": "talk"})
    data, translated = axolotl(same, same | {"field_messages": "chat"})
    assert (data.format, data.columns) == ("sharegpt", {})
    left = dict(translated.left)
    assert 'datasets[0]: columns {"conversations": "talk"}' in left
    assert "one for all sources" in left['datasets[1]: columns {"conversations": "chat"}']


@pytest.mark.parametrize(
    ("entry", "row", "expected"),
    [
        (
            {"columns": {"prompt": "question", "query": "passage", "response": "answer", "system": "rules"}},
            {"question": "Q", "passage": "", "answer": "A", "rules": "S"},
            (SYSTEM, *PAIR),
        ),
        ({"columns": {"prompt": "instruction", "query": "", "response": "output"}},
         {"instruction": "Q", "output": "A"}, PAIR),
        (
            {"formatting": "sharegpt", "columns": {"messages": "messages", "system": "system"},
             "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user",
                      "assistant_tag": "assistant", "system_tag": "system"}},
            {"messages": list(PAIR), "system": "S"},
            (SYSTEM, *PAIR),
        ),
        (
            {"formatting": "sharegpt", "columns": {"messages": "talk"},
             "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "client",
                      "assistant_tag": "agent", "observation_tag": "tool_result", "system_tag": "rules"}},
            {"talk": [{"who": "rules", "says": "S"}, {"who": "client", "says": "Q"},
                      {"who": "agent", "says": "A"}, {"who": "tool_result", "says": "7"},
                      {"who": "agent", "says": "A"}]},
            (SYSTEM, *PAIR, {"role": "tool", "content": "7"}, PAIR[1]),
        ),
        ({"formatting": "sharegpt"},
         {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, PAIR),
    ],
)  # fmt: skip
def test_llama_factorys_rows(entry: dict[str, Any], row: dict[str, Any], expected: Any) -> None:
    data, translated = factory(entry)
    assert messages(data, row) == expected
    assert left_of_rows(translated) == []


def test_llama_factorys_system_prompt_and_what_has_no_place() -> None:
    entry = {
        "formatting": "sharegpt", "columns": {"messages": "messages", "images": "pictures"},
        "tags": {"role_tag": "role", "content_tag": "content", "function_tag": "calls"},
    }  # fmt: skip
    data, translated = factory(entry, "default_system: Be brief.\n")
    assert (data.format, data.system) == ("messages", "Be brief.")
    left = [what for what, _ in translated.left]
    assert "columns.images of the data set mine: pictures" in left
    assert "tags.function_tag of the data set mine: calls" in left


@pytest.mark.parametrize(
    ("dataset", "row", "expected"),
    [
        ({"_component_": "instruct_dataset", "column_map": {"input": "question", "output": "answer"}},
         {"question": "Q", "answer": "A", "messages": "no"}, PAIR),
        ({"_component_": "instruct_dataset"}, {"input": "Q", "output": "A", "instruction": "no"}, PAIR),
        ({"_component_": "samsum_dataset"}, {"dialogue": "Q", "summary": "A", "id": "1"}, PAIR),
        ({"_component_": "alpaca_dataset", "column_map": {"instruction": "q", "output": "a"}},
         {"q": "Q", "input": "", "a": "A"}, PAIR),
        (
            {"_component_": "chat_dataset", "conversation_column": "talk", "conversation_style": "sharegpt"},
            {"talk": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
            PAIR,
        ),
        (
            {"_component_": "chat_dataset", "conversation_column": "talk", "conversation_style": "openai"},
            {"talk": list(PAIR)},
            PAIR,
        ),
    ],
)  # fmt: skip
def test_torchtunes_rows(dataset: dict[str, Any], row: dict[str, Any], expected: Any) -> None:
    data, translated = torchtune(**dataset)
    assert messages(data, row) == expected
    assert left_of_rows(translated) == []


def test_torchtunes_system_prompt_and_texts() -> None:
    data, _ = torchtune(_component_="instruct_dataset", new_system_prompt="Be brief.")
    assert data.system == "Be brief."
    data, _ = torchtune(_component_="text_completion_dataset", column="body")
    assert (data.format, data.columns) == ("text", {"text": "body"})


def test_trls_text_field() -> None:
    text = "model_name_or_path: a/b\ndataset_name: c/d\n"
    data, translated = made(f"{text}dataset_text_field: body\n")
    assert data.columns == {"text": "body"}
    assert "columns:" in translated.text
    data, translated = made(f"{text}dataset_text_field: messages\n")
    assert data.columns == {}
    assert "dataset_text_field: messages" in dict(translated.left)


def test_names_that_no_run_file_can_have_are_one_sentence() -> None:
    from packtrain.errors import ConfigError

    with pytest.raises(ConfigError, match=r"theirs\.yml:\d+: .*Q is instruction already"):
        factory({"columns": {"prompt": "Q", "response": "Q"}})
