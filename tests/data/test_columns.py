"""Rows with other columns, turns and roles: `data.columns` and `data.roles` of a run file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_kit import tokenizer

from packtrain import runfile
from packtrain.config import DataConfig
from packtrain.config.columns import COLUMNS, IN_TURNS, WITH_TURNS, Name
from packtrain.data.columns import Columns
from packtrain.data.formats import FORMATS, Conversation
from packtrain.data.prepare import PreparedData, prepare, read_rows
from packtrain.data.preview import parts
from packtrain.data.rows import BadRow, Row
from packtrain.data.sources import open_source
from packtrain.errors import ConfigError, DataError

SHAREGPT = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
PAIR = ({"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"})


def read(fields: dict[str, Any], format: str = "auto", **config: Any) -> Conversation:
    columns = Columns.of(DataConfig(train="x", **config))
    return columns.conversation(
        Row("x.jsonl:1", fields), columns.detect(fields) if format == "auto" else format
    )


def test_the_columns_of_the_run_file_are_those_of_the_formats() -> None:
    own = {name: set(layout.required + layout.optional) for name, layout in FORMATS.items()}
    own = {name: columns | ({"system"} if name != "text" else set()) for name, columns in own.items()}
    assert {name: set(columns) for name, columns in COLUMNS.items()} == own
    names = set(Name.__args__)  # type: ignore[attr-defined]
    assert names == {column for columns in COLUMNS.values() for column in columns} | set(IN_TURNS)
    assert set(WITH_TURNS) < set(COLUMNS)


@pytest.mark.parametrize(
    ("columns", "fields", "question"),
    [
        ({"prompt": "question", "completion": "answer"}, {"question": "Q", "answer": "A"}, "Q"),
        (
            {"instruction": "q", "context": "passage", "response": "a"},
            {"q": "Q", "passage": "P", "a": "A"},
            "Q\n\nP",
        ),
        ({"response": "answer"}, {"instruction": "Q", "answer": "A", "output": "no"}, "Q"),
        # A column that has one of our names, and is named otherwise, is not what we would take it for.
        ({"prompt": "instruction", "completion": "output"}, {"instruction": "Q", "output": "A"}, "Q"),
        ({"prompt": "completion", "completion": "prompt"}, {"completion": "Q", "prompt": "A"}, "Q"),
        ({"prompt": "q", "completion": "a"}, {"q": "Q", "a": "A", "messages": "no", "text": "no"}, "Q"),
        ({"completion": "chosen"}, {"prompt": "Q", "chosen": "A", "rejected": "B"}, "Q"),
        ({"output": "답"}, {"instruction": "Q", "답": "A", "input": ""}, "Q"),
    ],
)
def test_single_turns(columns: dict[str, str], fields: dict[str, Any], question: str) -> None:
    assert read(fields, columns=columns).messages == ({"role": "user", "content": question}, PAIR[1])


def test_a_text_of_another_name() -> None:
    assert read({"body": "once", "prompt": "x", "completion": "y"}, columns={"text": "body"}).text == "once"


@pytest.mark.parametrize(
    ("columns", "roles", "fields"),
    [
        ({"messages": "dialog"}, {}, {"dialog": list(PAIR)}),
        ({"conversations": "dialog"}, {}, {"dialog": SHAREGPT}),
        ({"conversations": "dialog"}, {}, {"dialog": list(PAIR)}),
        ({"messages": "conversations", "role": "from", "content": "value"}, {}, {"conversations": SHAREGPT}),
        (
            {"role": "speaker", "content": "says"},
            {},
            {"conversations": [{"speaker": "human", "says": "Q"}, {"speaker": "gpt", "says": "A"}]},
        ),
        ({"content": "text"}, {}, {"conversations": [
            {"from": "human", "text": "Q", "value": None}, {"from": "gpt", "text": "A"}]}),
        (
            {"messages": "talk", "role": "who", "content": "what"},
            {"user": "customer", "assistant": ["agent", "bot"]},
            {"talk": [{"who": "customer", "what": "Q", "role": "?"}, {"who": "agent", "what": "A"}]},
        ),
        (
            {},
            {"user": "Kunde", "assistant": "Berater"},
            {"messages": [{"role": "Kunde", "content": "Q"}, {"role": "Berater", "content": "A"}]},
        ),
        ({}, {"user": "gpt", "assistant": "human"}, {"conversations": [
            {"from": "gpt", "value": "Q"}, {"from": "human", "value": "A"}]}),
        (
            {"prompt": "ask", "role": "from", "content": "value"},
            {},
            {"ask": SHAREGPT[:1], "completion": "A"},
        ),
    ],
)  # fmt: skip
def test_turns(columns: dict[str, str], roles: dict[str, Any], fields: dict[str, Any]) -> None:
    assert read(fields, columns=columns, roles=roles).messages == PAIR


def test_a_system_column_tools_thoughts_and_marks_of_other_names() -> None:
    fields = {
        "instructions": "S",
        "functions": '[{"name": "f"}]',
        "talk": [
            {"from": "human", "value": "Q"},
            {"from": "gpt", "value": "A", "cot": "hm", "learn": False},
            {"from": "gpt", "value": "A", "cot": None, "learn": True},
        ],
    }
    got = read(
        fields,
        columns={
            "conversations": "talk", "system": "instructions", "tools": "functions",
            "reasoning_content": "cot", "train": "learn",
        },
    )  # fmt: skip
    assert got.tools == [{"name": "f"}]
    assert got.messages == (
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A", "reasoning_content": "hm", "train": False},
        {"role": "assistant", "content": "A"},
    )


@pytest.mark.parametrize(
    ("columns", "fields", "sentence"),
    [
        (
            {"prompt": "question", "completion": "answer"},
            {"question": "Q", "answr": "A"},
            "x.jsonl:1: answer: is missing, which data.columns.completion names "
            "(the row has question, answr); did you mean answr?",
        ),
        ({"prompt": "q", "completion": "a"}, {"q": "", "a": "A"}, "x.jsonl:1: q: is empty"),
        (
            {"messages": "talk", "content": "says"},
            {"talk": [{"role": "user", "says": 3}]},
            "x.jsonl:1: talk[0].says: is a number, not a string",
        ),
        (
            {"messages": "talk", "role": "who"},
            {"talk": [{"content": "Q"}]},
            "x.jsonl:1: talk[0].who: is missing",
        ),
    ],
)
def test_what_is_wrong_is_told_in_the_files_names(
    columns: dict[str, str], fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadRow) as caught:
        read(fields, "messages" if "messages" in columns else "prompt-completion", columns=columns)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("columns", "fields"),
    [
        (
            {"system": "system_prompt", "prompt": "question", "completion": "response"},
            {"system_prompt": "S", "question": "Q", "response": "A"},
        ),
        ({"system": "system"}, {"system": "S", "instruction": "Q", "output": "A"}),
        ({"system": "rules"}, {"rules": "S", "instruction": "Q", "response": "A"}),
        ({"system": "rules"}, {"rules": "S", "messages": list(PAIR)}),
    ],
)
def test_a_system_prompt_of_the_rows_own_where_its_column_is_named(
    columns: dict[str, str], fields: dict[str, Any]
) -> None:
    assert read(fields, columns=columns).messages == ({"role": "system", "content": "S"}, *PAIR)
    fields |= dict.fromkeys([columns["system"]], "")
    assert read(fields, columns=columns).messages == PAIR
    fields |= dict.fromkeys([columns["system"]], 3)
    with pytest.raises(BadRow, match=f"{columns['system']}: is a number, not a string"):
        read(fields, columns=columns)


def test_a_system_column_that_is_not_named_is_none_and_two_of_them_are_refused() -> None:
    assert read({"system": "S", "instruction": "Q", "output": "A"}).messages == PAIR
    own = {"rules": "S", "messages": [{"role": "system", "content": "own"}, *PAIR]}
    with pytest.raises(BadRow, match="rules: is given beside a system turn"):
        read(own, columns={"system": "rules"})


def test_an_unknown_role_stays_unknown() -> None:
    with pytest.raises(BadRow, match=r"messages\[0\]\.role: customer is an unknown role"):
        read({"messages": [{"role": "customer", "content": "Q"}]}, roles={"user": "Kunde"})


def test_no_format_that_is_left_lists_the_columns_and_what_it_wants() -> None:
    with pytest.raises(DataError) as caught:
        read({"question": "private", "reply": "private"}, columns={"prompt": "question"})
    assert str(caught.value) == (
        "the columns found (question, reply) are of no format that data.columns leaves: "
        "prompt-completion wants prompt and completion (tools if you have it)"
    )


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("columns: {promt: q}", "7: data.columns.promt: unknown key; did you mean prompt?"),
        (
            "columns: {xyzzy: q}",
            "7: data.columns.xyzzy: unknown key; known are messages, conversations, system",
        ),
        ("columns: {prompt: 3}", "7: data.columns.prompt: expects text, got 3"),
        ("columns: {prompt: ''}", "7: data.columns.prompt: must not be empty"),
        ("columns: [prompt]", "7: data.columns: expects keys and values, got a list"),
        (
            "columns: {prompt: q, completion: q}",
            "7: data.columns.completion: q is prompt already; a column is one thing",
        ),
        (
            "columns: {prompt: q, response: a}",
            "7: data.columns: prompt, response are not of one format (messages",
        ),
        (
            "columns: {prompt: q}\n  format: alpaca",
            "7: data.columns.prompt: the format alpaca has no column prompt; it has instruction, output",
        ),
        ("columns: {role: r}\n  format: dolly", "7: data.columns.role: rows of format dolly have no turns"),
        ("columns: {role: r, instruction: q}", "7: data.columns: role, instruction are not of one format"),
        ("roles: {usr: x}", "7: data.roles.usr: unknown key; did you mean user?"),
        ("roles: {user: []}", "7: data.roles.user: must not be empty"),
        (
            "roles: {user: [a, b], assistant: b}",
            "7: data.roles.assistant: b is user already; a name is one role",
        ),
        ("roles: {user: a}\n  format: text", "7: data.roles.user: rows of format text have no turns"),
        ("system: ' '", "7: data.system: must not be empty"),
        ("system: Be brief.\n  format: text", "7: data.system: rows of format text are no conversations"),
        ("reasoning: keep", "7: data.reasoning: expects template, content or drop, got the text 'keep'"),
    ],
)
def test_a_run_file_that_cannot_be_meant_is_refused_at_its_line(
    tmp_path: Path, section: str, sentence: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"name: a\n\nmodel:\n  source: a/b\ndata:\n  train: a/b\n  {section}\n")
    with pytest.raises(ConfigError) as caught:
        runfile.load(path)
    assert str(caught.value).startswith(f"{path}:{sentence}")
    assert "\n" not in str(caught.value)


def test_one_name_is_set_on_the_command_line_and_a_map_may_be_commented_out(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: a\nmodel: {source: a/b}\ndata:\n  train: a/b\n  columns:\n  # prompt: q\n")
    assert runfile.load(path).config.data.columns == {}
    overrides = ["data.columns.prompt=q", "data.columns.completion=a", "data.roles={user: [x, y]}"]
    config = runfile.load(path, overrides).config
    assert config.data.columns == {"prompt": "q", "completion": "a"}
    assert config.data.roles == {"user": ["x", "y"]}
    again = tmp_path / "again.yaml"
    again.write_text(runfile.dump(config))
    assert runfile.load(again).config == config
    with pytest.raises(ConfigError, match=r"-s data\.columns\.promt=q: unknown key; did you mean prompt"):
        runfile.load(path, ["data.columns.promt=q"])


def prepared(tmp_path: Path, *rows: dict[str, Any], name: str = "rows.jsonl", **config: Any) -> PreparedData:
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {"train": str(path), "validation": 0.0} | config
    return prepare(
        DataConfig(**settings),
        tokenizer("smollm2"),
        chat_template=None,
        seed=0,
        keep=config.get("keep", False),
    )


def test_mapped_rows_train_on_the_same_tokens_as_their_own(tmp_path: Path) -> None:
    ours = prepared(tmp_path, {"prompt": "Q", "completion": "A"})
    theirs = prepared(
        tmp_path, {"question": "Q", "answer": "A"}, columns={"prompt": "question", "completion": "answer"}
    )
    assert theirs.report.format == "prompt-completion"
    assert theirs.train.row(0)[0].tolist() == ours.train.row(0)[0].tolist()
    assert theirs.train.row(0)[1].tolist() == ours.train.row(0)[1].tolist()


def test_a_column_that_no_row_has_is_refused_and_one_that_some_have_is_not(tmp_path: Path) -> None:
    columns = {"instruction": "q", "response": "a", "context": "passage"}
    rows = [{"q": f"Q{n}", "a": "A", "pasage": "P"} for n in range(3)]
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, *rows, columns=columns)
    assert str(caught.value).endswith(
        "rows.jsonl: passage: is missing, which data.columns.context names "
        "(the row has q, a, pasage); did you mean pasage?"
    )
    assert caught.value.hint == "name the file's own in data.columns.context, or leave that key out"
    found = prepared(tmp_path, *rows, {"q": "Q", "a": "A", "passage": "P"}, columns=columns)
    assert len(found.train) == 4
    assert len(prepared(tmp_path, *rows, columns=columns, limit=2).train) == 2  # a preview of the first rows


def test_a_key_that_no_turn_has_is_refused_too(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "cot": "hm"}]
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, {"messages": turns}, columns={"reasoning_content": "cott"}, reasoning="content")
    assert str(caught.value).endswith(
        "rows.jsonl: cott: is missing, which data.columns.reasoning_content names "
        "(the row has role, content, cot); did you mean cot?"
    )
    plain = {"messages": list(PAIR)}
    found = prepared(
        tmp_path, plain, {"messages": turns}, columns={"reasoning_content": "cot"}, reasoning="content"
    )
    assert len(found.train) == 2


def test_a_sample_of_the_rows_need_not_have_every_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": "Q", "a": "A"}\n')
    config = DataConfig(train=str(path), columns={"instruction": "q", "response": "a", "context": "passage"})
    assert len(read_rows(config, tokenizer("smollm2"), open_source(str(path)), None)) == 1


def test_each_file_is_looked_at_for_itself(tmp_path: Path) -> None:
    columns = {"instruction": "q", "response": "a", "context": "passage"}
    (tmp_path / "first.jsonl").write_text(json.dumps({"q": "Q", "a": "A", "passage": "P"}) + "\n")
    both = [str(tmp_path / "first.jsonl"), str(tmp_path / "rows.jsonl")]
    with pytest.raises(DataError, match=r"rows\.jsonl: passage: is missing"):
        prepared(tmp_path, {"q": "Q", "a": "A"}, columns=columns, train=both)


def test_other_names_are_other_tokens_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))
    row = {"q": "Q", "a": "A", "b": "B"}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    made = tokenizer("smollm2")

    def answer(column: str) -> str:
        config = DataConfig(train=str(path), validation=0.0, columns={"prompt": "q", "completion": column})
        found = prepare(config, made, chat_template=None, seed=0)
        return next(text for text, supervised in parts(*found.train.row(0), made) if supervised)

    assert [answer("a"), answer("b"), answer("a")] == ["A<|im_end|>", "B<|im_end|>", "A<|im_end|>"]
