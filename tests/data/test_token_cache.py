"""A second start takes none of the work; what is kept is whole, and of these very rows, or made again."""

from __future__ import annotations

import json
import os
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_kit import tokenizer

from packtrain.config import DataConfig
from packtrain.data import cache as module
from packtrain.data.chat import ChatTemplate
from packtrain.data.prepare import PreparedData, prepare
from packtrain.data.token_files import RowWriter, read_entry
from packtrain.errors import DataError, StorageError

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"


@pytest.fixture(autouse=True)
def tokens_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def write(path: Path, count: int, answer: str = "yes", bad: int = 0) -> str:
    rows: list[Any] = [{"instruction": f"{n}?", "response": f"{answer} {n}"} for n in range(count)]
    lines = [json.dumps(row) for row in rows] + ["{"] * bad
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def run(
    train: str, family: str = "smollm2", template: str | None = None, seed: int = 1, **data: Any
) -> PreparedData:
    config = DataConfig(train=train, **({"validation": 0.2} | data))
    return prepare(config, tokenizer(family), chat_template=template, seed=seed)


def same(one: PreparedData, other: PreparedData) -> None:
    assert one.report == other.report
    for name in ("train", "validation"):
        ours, theirs = getattr(one, name), getattr(other, name)
        assert list(ours.places) == list(theirs.places)
        for index in range(len(ours)):
            for mine, its in zip(ours.row(index), theirs.row(index), strict=True):
                np.testing.assert_array_equal(mine, its)
        np.testing.assert_array_equal(ours.targets, theirs.targets)


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()]


@pytest.fixture
def no_rendering(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        def encode(*_: object) -> None:
            raise AssertionError("rows are rendered again")

        monkeypatch.setattr(ChatTemplate, "encode_batch", encode)

    return forbid


def test_a_second_start_renders_nothing_and_is_the_same(
    tmp_path: Path, no_rendering: Callable[[], None]
) -> None:
    file = write(tmp_path / "t.jsonl", 40, bad=2)
    first = run(file, on_bad_row="skip")
    no_rendering()
    same(first, run(file, on_bad_row="skip"))
    # The split and the packing are no part of what is kept.
    assert run(file, on_bad_row="skip", seed=2).train.fingerprint != first.train.fingerprint
    assert len(run(file, on_bad_row="skip", packing=False).train_bins) == 32


def test_kept_or_in_memory_is_the_same(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", 40)
    config = DataConfig(train=file, validation=0.2)
    memory = prepare(config, tokenizer("smollm2"), chat_template=None, seed=1, keep=False)
    same(memory, run(file))
    assert memory.train.fingerprint == run(file).train.fingerprint


def test_the_splits_share_one_file_that_is_mapped(tmp_path: Path) -> None:
    made = run(write(tmp_path / "t.jsonl", 40))
    assert made.validation is not None
    assert made.train.tokens is made.validation.tokens
    assert isinstance(made.train.tokens.base, np.memmap)
    assert not made.train.tokens.flags.writeable


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 1024},
        {"too_long": "skip"},
        {"on_bad_row": "skip"},
        {"on_bad_row": "skip", "max_bad_rows": 1},
        {"limit": 39},
        {"format": "dolly"},
        {"family": "llama3"},
        {"template": TEMPLATE},
    ],
    ids=str,
)
def test_whatever_tokens_follow_from_is_part_of_the_name(
    tmp_path: Path, change: dict[str, Any], tokens_folder: Path
) -> None:
    file = write(tmp_path / "t.jsonl", 40)
    run(file)
    before = entries(tokens_folder)
    run(file, **change)
    assert len(entries(tokens_folder)) == len(before) + 1


def test_other_rows_under_the_same_name_are_other_rows(tmp_path: Path, tokens_folder: Path) -> None:
    first = run(write(tmp_path / "t.jsonl", 40))
    times = (tmp_path / "t.jsonl").stat()
    second = run(write(tmp_path / "t.jsonl", 40, answer="no!"))
    assert second.train.fingerprint != first.train.fingerprint
    write(tmp_path / "t.jsonl", 40)
    os.utime(tmp_path / "t.jsonl", ns=(times.st_atime_ns, times.st_mtime_ns))
    same(first, run(str(tmp_path / "t.jsonl")))
    assert len(entries(tokens_folder)) == 2


def test_other_code_makes_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens_folder: Path
) -> None:
    file = write(tmp_path / "t.jsonl", 40)
    run(file)
    monkeypatch.setattr(module, "_code", lambda: "another release")
    run(file)
    assert len(entries(tokens_folder)) == 2


def _torn(folder: Path) -> None:
    tokens = folder / "tokens.i4"
    os.truncate(tokens, tokens.stat().st_size // 2)


def _flipped(folder: Path) -> None:
    with (folder / "tokens.i4").open("r+b") as file:
        file.seek(100)
        byte = file.read(1)
        file.seek(100)
        file.write(bytes([byte[0] ^ 4]))


def _without_mask(folder: Path) -> None:
    (folder / "supervised.u1").unlink()


def _no_json(folder: Path) -> None:
    (folder / "meta.json").write_text('{"files": ')


def _other_json(folder: Path) -> None:
    (folder / "meta.json").write_text('["files"]')


def _small_array(folder: Path) -> None:
    (folder / "lengths.npy").write_bytes(b"\x93NUMPY")


@pytest.mark.parametrize(
    "harm",
    [_torn, _flipped, _without_mask, _no_json, _other_json, _small_array],
    ids=lambda harm: harm.__name__,
)
def test_what_is_torn_or_corrupt_is_made_again_and_that_is_said(
    tmp_path: Path, tokens_folder: Path, harm: Callable[[Path], None]
) -> None:
    file = write(tmp_path / "t.jsonl", 40)
    first = run(file)
    (folder,) = entries(tokens_folder)
    # Files of the first are mapped: they go on to be what they were.
    shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(folder)
    (tmp_path / "copy").rename(folder)
    harm(folder)
    again = run(file)
    assert again.train.fingerprint == first.train.fingerprint
    (warning,) = again.report.warnings()
    assert warning.startswith("tokens that were kept are damaged, and were made again")
    same(first, run(file))


def test_bad_data_leaves_nothing_behind(tmp_path: Path, tokens_folder: Path) -> None:
    with pytest.raises(DataError, match=r"t\.jsonl:41"):
        run(write(tmp_path / "t.jsonl", 40, bad=1))
    assert entries(tokens_folder) == []


def test_the_limit_on_bad_rows_is_on_both_sources_kept_or_not(tmp_path: Path) -> None:
    train, validation = write(tmp_path / "t.jsonl", 40, bad=2), write(tmp_path / "v.jsonl", 9, "no", bad=2)
    found = run(train, validation=validation, on_bad_row="skip", max_bad_rows=4).report.findings
    assert (found.rows_read, found.bad_rows, len(found.bad_row_list)) == (53, 4, 4)
    for source in (train, validation):
        run(source, on_bad_row="skip", max_bad_rows=3)
    with pytest.raises(DataError, match=r"more bad rows than data\.max_bad_rows 3"):
        run(train, validation=validation, on_bad_row="skip", max_bad_rows=3)


@pytest.mark.parametrize("place", ["file/below", "read-only"])
def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "read-only").mkdir(mode=0o500)
    if place == "read-only" and os.access(tmp_path / "read-only", os.W_OK):
        pytest.skip("this user may write everywhere")
    file = write(tmp_path / "t.jsonl", 40)
    first = run(file)
    monkeypatch.setenv("PACKTRAIN_CACHE", str(tmp_path / place))
    made = run(file)
    assert made.train.fingerprint == first.train.fingerprint
    (warning,) = made.report.warnings()
    assert warning.startswith("tokens are not kept for the next start: ")


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow above 4 KiB: what a full disk is like, with another number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, tokens_folder: Path, request: pytest.FixtureRequest
) -> None:
    file = write(tmp_path / "t.jsonl", 400)
    request.getfixturevalue("small_disk")
    with pytest.raises(StorageError, match="cannot write") as caught:
        run(file)
    assert "PACKTRAIN_CACHE" in str(caught.value.hint)
    assert entries(tokens_folder) == []


def test_of_several_at_once_one_does_the_work(tokens_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    tokens_folder.mkdir(parents=True)
    made: list[Path] = []
    ready = threading.Barrier(4)

    def make(folder: Path) -> None:
        made.append(folder)
        _write_entry(folder)

    def start(_: int) -> str:
        ready.wait()
        entry, note = module.remembered(tokens_folder, "key", make)
        assert note is None
        return entry.rows.fingerprint

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(start, range(4)))) == 1
    assert len(made) == 1
    assert not source.exists()


def test_those_used_last_stay(tokens_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP", 2)
    tokens_folder.mkdir(parents=True)
    for number, key in enumerate(("a", "b", "c")):
        entry, _ = module.remembered(tokens_folder, key, _write_entry)
        os.utime(tokens_folder / key, (1000 + number, 1000 + number))
    assert {path.name for path in entries(tokens_folder)} == {"b", "c"}
    module.remembered(tokens_folder, "b", _write_entry)  # used again
    module.remembered(tokens_folder, "d", _write_entry)
    assert {path.name for path in entries(tokens_folder)} == {"b", "d"}
    assert len(entry.rows) == 1  # of c, which is used still


def test_what_a_killed_process_left_is_taken_away_after_a_day(tokens_folder: Path) -> None:
    for name, age in (("old.tmp", 2 * module.STALE), ("new.tmp", 0.0)):
        (tokens_folder / name).mkdir(parents=True)
        then = tokens_folder.stat().st_mtime - age
        os.utime(tokens_folder / name, (then, then))
    module.remembered(tokens_folder, "a", _write_entry)
    assert {path.name for path in entries(tokens_folder)} == {"a", "new.tmp"}


def _write_entry(folder: Path) -> None:
    with RowWriter(folder) as writer:
        template = ChatTemplate(tokenizer("smollm2"))
        from packtrain.data.formats import Conversation
        from packtrain.data.report import Findings

        messages = ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"})
        writer.add("t.jsonl:1", template.encode(Conversation(messages)))
        writer.seal()
        writer.finish("messages", Findings(rows_read=1))
    assert list(read_entry(folder).rows.places) == ["t.jsonl:1"]
