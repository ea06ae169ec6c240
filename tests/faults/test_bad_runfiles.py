"""Run files broken in many ways: one sentence a problem, with file, line and key; exit 78; no stack trace."""

# ruff: noqa: E501  (a case of the table is a line)

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packtrain import runfile
from packtrain.cli.main import main
from packtrain.errors import ConfigError

SRC = Path(__file__).resolve().parents[2] / "src"
HEAD = "name: a\nmodel: {source: owner/name}\n"
BASE = HEAD + "data: {train: owner/rows}\n"

#: The file's text -> what its one sentence says after "run.yaml:".
BROKEN: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "1: is empty"),
    "comments only": ("# nothing\n", "1: is empty"),
    "a list": ("- name: a\n", "1: is a list; a run file is keys and values"),
    "a word": ("hello\n", "1: is a single value; a run file is keys and values"),
    "a tab": ("name: a\nmodel:\n\tsource: a/b\n", "3:1: a tab stands here; YAML is indented with spaces"),
    "unclosed": (BASE + "train: {epochs: 1\n", "5:1: "),
    "two colons": (BASE + "train: epochs: 1\n", "4:14: a `:` stands where no key can be"),
    "two documents": (BASE + "---\nname: b\n", "4:1: a second YAML document begins here"),
    "duplicate": (BASE + "train:\n  epochs: 1\n  epochs: 2\n", "6:3: train.epochs: stands twice (first in line 5)"),
    "duplicate section": (BASE + "data: {train: c/d}\n", "4:1: data: stands twice (first in line 3)"),
    "unknown alias": (BASE + "train: *t\n", "4:8: found undefined alias 't'"),
    "own alias": (BASE + "train: &t\n  epochs: *t\n", "4:8: an alias stands inside of what it names"),
    "tag": (BASE + "train: {epochs: !!python/object:os.system 1}\n", "4:17: the tag"),
    "key is a number": (BASE + "3: x\n", "4:1: a key is not text"),
    "not UTF-8": (b"name: a\n# caf\xe9\n", "2: is not UTF-8 text (byte 14 of the file)"),
    "control character": ("name: a\nmodel:\n  source: a\x07\n", "3: holds the character U+0007"),
    "unknown key": (BASE + "train:\n  learning_rat: 1\n", "5: train.learning_rat: unknown key; did you mean train.learning_rate?"),
    "key of another section": (BASE + "learning_rate: 1\n", "4: learning_rate: unknown key; did you mean train.learning_rate?"),
    "unknown section": (BASE + "trian: {epochs: 1}\n", "4: trian: unknown key; did you mean train?"),
    "name from another trainer": (BASE + "train: {num_train_epochs: 1}\n", "4: train.num_train_epochs: unknown key; did you mean train.epochs?"),
    "unknown key without a near one": (BASE + "zzz: 1\n", "4: zzz: unknown key"),
    "key in a prompt": (BASE + "evaluate:\n  prompts:\n  - {prompt: a, expct: b}\n", "6: evaluate.prompts[0].expct: unknown key; did you mean expect?"),
    "key in a mixture": (HEAD + "data:\n  train:\n  - {source: a/b, wieght: 2}\n", "5: data.train[0].wieght: unknown key; did you mean weight?"),
    "a mixture's item without a source": (HEAD + "data:\n  train:\n  - {weight: 2}\n", "5: data.train[0].source: is missing"),
    "a weight of 0": (HEAD + "data: {train: [{source: a/b, weight: 0}]}\n", "3: data.train[0].weight: must be greater than 0 (is 0)"),
    "a huge weight": (HEAD + "data: {train: [{source: a/b, weight: 1001}]}\n", "3: data.train[0].weight: must be at most 1000 (is 1001)"),
    "a mixture with one revision": (HEAD + "data: {train: [{source: a/b}], revision: main}\n", "3: data.revision: each item of data.train has its own; move it to its item"),
    "missing key": ("name: a\nmodel: {}\ndata: {train: a/b}\n", "2: model.source: is missing (The base: a Hugging Face id"),
    "missing section": (HEAD, "1: data: is missing; it needs data.train"),
    "missing name": (BASE.replace("name: a\n", ""), "1: name: is missing (The run's name"),
    "bad name": (BASE.replace("name: a", "name: My_Run"), "1: name: must be a DNS label: at most 40 characters"),
    "long name": (BASE.replace("name: a", "name: " + "a" * 41), "1: name: must be a DNS label"),
    "name with a newline": (BASE.replace("name: a", 'name: "a\\n"'), "1: name: must be a DNS label"),
    "negative": (BASE + "train: {learning_rate: -1.0}\n", "4: train.learning_rate: must be greater than 0 (is -1.0)"),
    "infinite": (BASE + "train: {learning_rate: 1e999}\n", "4: train.learning_rate: must be "),
    "infinite without a bound": (BASE + "adapter: {alpha: 1e999}\n", "4: adapter.alpha: must be a finite number (is inf)"),
    "too large": (BASE.replace("}\ndata: {", "}\ndata: {max_length: 2000000, "), "3: data.max_length: must be at most 1048576 (is 2000000)"),
    "text for a number": (BASE + "train: {epochs: three}\n", "4: train.epochs: expects a number, got the text 'three'"),
    "fraction for a whole number": (BASE + "adapter: {rank: 1.5}\n", "4: adapter.rank: expects a whole number, got 1.5"),
    "boolean for a number": (BASE + "adapter: {rank: true}\n", "4: adapter.rank: expects a whole number, got true"),
    "nothing for a number": (BASE + "adapter: {rank: }\n", "4: adapter.rank: expects a whole number, got nothing"),
    "number for text": ("name: 3\nmodel: {source: a/b}\ndata: {train: a/b}\n", "1: name: expects text, got 3"),
    "unknown choice": (BASE + "train: {schedule: cosin}\n", "4: train.schedule: expects cosine, linear or constant, got the text 'cosin'"),
    "share of 1.5": (BASE.replace("rows}", "rows, validation: 1.5}"), "3: data.validation: must be less than 1 (is 1.5)"),
    "share as keys": (BASE.replace("rows}", "rows, validation: {a: 1}}"), "3: data.validation: expects a number or text or a list, got keys and values"),
    "empty list of sources": (HEAD + "data: {train: []}\n", "3: data.train: must not be empty"),
    "list of numbers": (HEAD + "data:\n  train:\n  - 3\n", "5: data.train[0]: expects text or keys and values, got 3"),
    "bad duration": (BASE + "checkpoint: {every: 5 parsecs}\n", "4: checkpoint.every: expects a duration such as 30s, 5m, 1.5h or 2d or a whole number, got the text '5 parsecs'"),
    "bad money": (BASE + "cluster: {max_cost: 200 EUR}\n", "4: cluster.max_cost: expects an amount such as 200 USD"),
    "section as a word": (BASE + "output: foo\n", "4: output: expects keys and values, got the text 'foo'"),
    "empty prompt": (BASE + "evaluate:\n  prompts:\n  - fine\n  - {prompt: ''}\n", "7: evaluate.prompts[1].prompt: must not be empty"),
    "empty answer": (BASE + "evaluate:\n  prompts:\n  - {prompt: a, expect: ''}\n", "6: evaluate.prompts[0].expect: must not be empty"),
    "blank answer": (BASE + "evaluate:\n  prompts:\n  - {prompt: a, expect: ' '}\n", "6: evaluate.prompts[0].expect: must not be empty"),
    "no answer": (BASE + "evaluate:\n  prompts:\n  - {prompt: a, expect: []}\n", "6: evaluate.prompts[0].expect: must not be empty"),
    "empty answer of several": (BASE + "evaluate:\n  prompts:\n  - {prompt: a, expect: [b, '']}\n", "6: evaluate.prompts[0].expect[1]: must not be empty"),
    "bad namespace": (BASE + "cluster: {namespace: My_Own}\n", "4: cluster.namespace: must be a DNS label: at most 63 characters"),
    "absent data": (HEAD + "data: {train: rows.jsonl}\n", "3: data.train: rows.jsonl is not there (looked in "),
    "absent data nearly there": (HEAD + "data: {train: ./facts.json}\n", "3: data.train: ./facts.json is not there (looked in "),
    "glob of nothing": (HEAD + "data: {train: 'rows/*.jsonl'}\n", "3: data.train: rows/*.jsonl matches nothing (looked in "),
    "absent validation": (BASE.replace("rows}", "rows, validation: ../v.csv.gz}"), "3: data.validation: ../v.csv.gz is not there"),
    "absent base": ("name: a\nmodel: {source: ./base}\ndata: {train: a/b}\n", "2: model.source: ./base is not there (looked in "),
    "absent gguf": ("name: a\nmodel: {source: m.gguf}\ndata: {train: a/b}\n", "2: model.source: m.gguf is not there (looked in "),
    "absent template": ("name: a\nmodel: {source: a/b, chat_template: x.jinja}\ndata: {train: a/b}\n", "2: model.chat_template: x.jinja is not there"),
    "bare word for data": (HEAD + "data: {train: dolly}\n", "3: data.train: dolly is not there (looked in "),
    "s3": ("name: a\nmodel: {source: 's3://b/m'}\ndata: {train: a/b}\n", "2: model.source: s3:// is not supported; it is a Hugging Face id"),
    "https": (HEAD + "data: {train: 'https://x/y.jsonl'}\n", "3: data.train: https:// is not supported; it is a Hugging Face data set id"),
    "pypi for data": (HEAD + "data: {train: 'pypi:rows'}\n", "3: data.train: pypi:rows cannot be used here"),
    "bad bucket": (BASE + "output: {uri: 'gs://My Bucket/x'}\n", "4: output.uri: 'My Bucket' cannot be a bucket's name"),
    "no bucket": (BASE + "output: {uri: 'gs:///x'}\n", "4: output.uri: gs:///x names no bucket"),
    "output to s3": (BASE + "output: {uri: 's3://b/x'}\n", "4: output.uri: s3:// is not supported; it is gs://BUCKET/PREFIX or a folder"),
    "no such user": (HEAD + "data: {train: ~nobody-here/x.jsonl}\n", "3: data.train: ~nobody-here/x.jsonl: this user has no home folder"),
    "a very long name": (HEAD + f"data: {{train: ./{'x' * 5000}}}\n", "3: data.train: ./xxx"),
    "nested too deeply": ("[" * 5000, "1: is nested too deeply"),
    "aliases of aliases": ("a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)), "1:"),
    "a very long number": (BASE + f"train: {{seed: {'9' * 5000}}}\n", "4:15: the number is too long"),
    "half a surrogate": (BASE.replace("name: a", 'name: "\\ud800"'), "1: name: expects valid Unicode text"),
    "output is a file": (BASE + "output: {run_uri: facts.jsonl}\n", "4: output.run_uri: facts.jsonl is a file"),
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "facts.jsonl").write_text("{}\n")
    return tmp_path


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_run_file_is_one_sentence_with_its_place(here: Path, case: str) -> None:
    text, sentence = BROKEN[case]
    (here / "run.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as raised:
        runfile.load(Path("run.yaml"))
    message = str(raised.value)
    assert message.startswith(f"run.yaml:{sentence}")
    assert "\n" not in message
    assert raised.value.exit_code == 78


@given(
    st.text(max_size=30) | st.sampled_from(sorted(set(BASE))), st.integers(0, len(BASE)), st.integers(0, 4)
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_in_it_the_sentence_has_a_place(here: Path, put: str, at: int, cut: int) -> None:
    text = BASE[:at] + put + BASE[at + cut :]
    (here / "run.yaml").write_bytes(text.encode("utf-8", errors="surrogatepass"))
    try:
        runfile.load(Path("run.yaml"))
    except ConfigError as error:
        assert all(re.match(r"run\.yaml:\d+:", line) for line in str(error).split("\n"))


def test_a_near_file_name_is_suggested(here: Path) -> None:
    (here / "run.yaml").write_text(HEAD + "data: {train: fact.jsonl}\n")
    with pytest.raises(ConfigError, match=r"; did you mean facts\.jsonl\?$"):
        runfile.load(Path("run.yaml"))


def test_an_absent_run_file(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"^run\.yaml: is not there$") as raised:
        runfile.load(Path("run.yaml"))
    assert "packtrain init" in str(raised.value.hint)
    (here / "run.yml").touch()
    with pytest.raises(ConfigError, match=r"^run\.yaml: is not there; did you mean run\.yml\?$"):
        runfile.load(Path("run.yaml"))
    with pytest.raises(ConfigError, match="is a folder, not a run file"):
        runfile.load(here)
    with pytest.raises(ConfigError, match=r"^nowhere/run\.yaml: is not there$"):
        runfile.load(Path("nowhere/run.yaml"))


@pytest.mark.parametrize("verb", ["train", "data"])
@pytest.mark.parametrize("case", ["empty", "a tab", "unknown key", "absent data", "negative"])
def test_the_verbs_end_with_78_and_the_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], verb: str, case: str
) -> None:
    (here / "run.yaml").write_bytes(str(BROKEN[case][0]).encode())
    code = main([verb, "run.yaml"])
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert code == 78
    assert len(errors) == 1
    assert errors[0].startswith(f"error: run.yaml:{BROKEN[case][1]}")
    assert "Traceback" not in captured.err
    assert not (here / "runs").exists()


@pytest.mark.parametrize("case", ["not UTF-8", "absent base"])
def test_as_a_process_of_its_own(here: Path, case: str) -> None:
    text, sentence = BROKEN[case]
    (here / "run.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    ended = subprocess.run(
        [sys.executable, "-m", "packtrain.cli.main", "train", "run.yaml"],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 78
    assert ended.stderr.startswith(f"error: run.yaml:{sentence}")
    assert "Traceback" not in ended.stderr
