"""Streamed rows and their windows: from any position on they are the same, in every kind of file."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from chat_kit import tokenizer
from pyarrow import parquet

from packtrain.config import DataConfig
from packtrain.data import stream as module
from packtrain.data.sources import open_source
from packtrain.data.stream import MOST_BATCHES, Position, RowStream, Window, WindowMaker
from packtrain.data.stream_mark import Mark
from packtrain.data.streaming import Streamed, open_streamed, report_of, sample
from packtrain.errors import ConfigError, DataError

ROWS = 50
BEGIN = Mark()


def dolly(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"instruction": f"What is {n}?", "context": "", "response": f"It is {n}." + " So." * (n % 7)}
        for n in range(start, start + count)
    ]


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def csv(rows: list[Any], mark: str) -> bytes:
    lines = [mark.join(rows[0]), *(mark.join(f'"{value}"' for value in row.values()) for row in rows)]
    return "\n".join(lines).encode()


def as_parquet(path: Path, rows: list[Any]) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)


def zstd(data: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(data, asbytes=True)  # type: ignore[no-any-return]


WRITERS: dict[str, Callable[[Path, list[Any]], Any]] = {
    "t.jsonl": lambda path, rows: path.write_bytes(b"\xef\xbb\xbf\n" + jsonl(rows).replace(b"}\n", b"}\n\n")),
    "t.jsonl.gz": lambda path, rows: path.write_bytes(gzip.compress(jsonl(rows))),
    "t.jsonl.zst": lambda path, rows: path.write_bytes(zstd(jsonl(rows))),
    "t.json": lambda path, rows: path.write_text(json.dumps(rows, indent=1)),
    "t.csv": lambda path, rows: path.write_bytes(csv(rows, ",")),
    "t.tsv.gz": lambda path, rows: path.write_bytes(gzip.compress(csv(rows, "\t"))),
    "t.parquet": as_parquet,
}


def opened(train: str | list[str], seed: int = 1, **data: Any) -> Streamed:
    plain = {"train": train, "streaming": True, "validation": 0.0, "max_length": 128} | data
    config = DataConfig.model_validate(plain)
    return open_streamed(config, tokenizer("smollm2"), chat_template=None, seed=seed)


def maker(streamed: Streamed, batch_tokens: int = 300, mark: Mark = BEGIN) -> WindowMaker:
    return streamed.maker(batch_tokens, mark.start, mark.found)


def windows(made: WindowMaker, count: int, first: int = 0) -> list[Window]:
    return [made.make(number) for number in range(first, first + count)]


def same(one: Window, other: Window) -> None:
    assert list(one.rows.places) == list(other.rows.places)
    assert one.rows.fingerprint == other.rows.fingerprint
    assert (one.number, one.start, one.end, one.steps) == (other.number, other.start, other.end, other.steps)
    assert one.findings == other.findings
    for step in range(one.steps):
        assert one.batch(step).tolist() == other.batch(step).tolist()


@pytest.mark.parametrize("name", WRITERS)
def test_reading_goes_on_from_every_row_of_every_kind_of_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path, dolly(20))
    source = open_source(str(path), in_place=True)
    stream = RowStream(source, 1, frozenset())
    places: list[str] = []
    positions: list[tuple[Position, int]] = []
    while len(places) < 45:  # into the third epoch
        positions.append((stream.position, len(places)))
        places += [item.place for item in stream.take(1)]
    assert len(set(places)) == 20
    assert places[20:40] == places[:20]
    for position, done in positions[::3]:
        again = RowStream(source, 1, frozenset(), Position(**json.loads(json.dumps(asdict(position)))))
        rest: list[str] = []
        while len(rest) < 45 - done:
            rest += [item.place for item in again.take(1)]
        assert rest == places[done:]


def test_what_was_read_of_a_jsonl_file_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(jsonl(dolly(20)))
    source = open_source(str(path))
    stream = RowStream(source, 1, frozenset())
    stream.take(12)
    position = stream.position
    path.write_bytes(b"x" * position.bytes + path.read_bytes()[position.bytes :])
    assert RowStream(source, 1, frozenset(), position).take(8) == stream.take(8)


def test_files_come_in_another_order_each_epoch_and_rows_in_theirs(tmp_path: Path) -> None:
    for part in range(8):
        (tmp_path / f"{part}.jsonl").write_bytes(jsonl(dolly(3, start=3 * part)))
    source = open_source(str(tmp_path), in_place=True)
    stream = RowStream(source, 7, frozenset())
    epochs = []
    for _ in range(3):
        items = stream.take(24)
        assert stream.take(1) == []
        epochs.append([item.place.rpartition("/")[2] for item in items])
    for places in epochs:
        assert [place.partition(":")[2] for place in places] == ["1", "2", "3"] * 8
        assert len(set(places)) == 24
    assert epochs[0] != epochs[1] != epochs[2]
    assert stream.position.epoch == 3
    listed = RowStream(open_source(str(tmp_path), limit=5), 7, frozenset())
    for _ in range(2):
        assert [item.place.rpartition("/")[2] for item in listed.take(9)] == [
            *("0.jsonl:1", "0.jsonl:2", "0.jsonl:3", "1.jsonl:1", "1.jsonl:2")
        ]


def test_windows_grow_hold_every_row_once_an_epoch_and_cross_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    (tmp_path / "t.jsonl").write_bytes(jsonl(dolly(ROWS)))
    made = windows(maker(opened(str(tmp_path / "t.jsonl"))), 9)
    assert made[0].steps == 1
    steps = [window.steps for window in made]
    assert steps[:4] == sorted(steps[:4])
    assert MOST_BATCHES - 1 <= max(steps) <= MOST_BATCHES + 1
    for window, after in pairwise(made):
        assert window.end == after.start
        assert window.epochs[1] == after.epochs[0]
        batches = [window.batch(step).tolist() for step in range(window.steps)]
        assert sorted(chain.from_iterable(batches)) == list(range(len(window.bins)))
        assert min(map(len, batches)) >= 1
    places = [place for window in made for place in window.rows.places]
    assert max(Counter(places).values()) - min(Counter(places).values()) <= 1
    assert {place.rpartition(":")[2] for place in places} == {str(line) for line in range(1, ROWS + 1)}
    assert any(window.start.epoch < window.end.epoch for window in made)


def test_any_window_is_made_again_from_where_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    rows: list[Any] = dolly(ROWS)
    rows[17] = {"instruction": "no answer"}
    (tmp_path / "t.jsonl").write_bytes(jsonl(rows))
    streamed = opened(str(tmp_path / "t.jsonl"), on_bad_row="skip", validation=0.1)
    made = windows(maker(streamed), 6)
    mark = Mark()
    for window in made:
        again = maker(streamed, mark=Mark.of_plain(json.loads(json.dumps(mark.to_plain()))))
        same(again.make(window.number), window)
        mark = mark.within(window).after(window, window.steps)
    other = windows(maker(opened(str(tmp_path / "t.jsonl"), seed=2, on_bad_row="skip")), 6)
    assert [window.batch(0).tolist() for window in other] != [window.batch(0).tolist() for window in made]


def test_validation_rows_are_of_the_first_and_never_trained_on(tmp_path: Path) -> None:
    for part in range(3):
        (tmp_path / f"{part}.jsonl").write_bytes(jsonl(dolly(30, start=30 * part)))
    streamed = opened(str(tmp_path), validation=0.1)
    assert streamed.validation is not None
    held = set(streamed.validation.places)
    assert len(held) == 9
    trained = Counter(place for window in windows(maker(streamed), 8) for place in window.rows.places)
    assert not held & trained.keys()
    assert len(trained) == 81
    assert set(opened(str(tmp_path), validation=0.1).validation.places) == held  # type: ignore[union-attr]
    assert set(opened(str(tmp_path), seed=2, validation=0.1).validation.places) != held  # type: ignore[union-attr]


def test_of_large_data_only_the_first_rows_are_looked_at_for_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packtrain.data.streaming.MOST_VALIDATION", 4)
    (tmp_path / "t.jsonl").write_bytes(jsonl(dolly(40)) + b"{broken\n" * 40)
    found = opened(str(tmp_path / "t.jsonl"), validation=0.2)
    assert found.validation is not None
    assert len(found.validation) == 4
    assert max(row for _, row in found.apart) < 20


def test_validation_may_be_a_source_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(jsonl(dolly(10)))
    (tmp_path / "v.csv").write_bytes(csv([{"prompt": "Why?", "completion": "So."}], ","))
    streamed = opened(str(tmp_path / "t.jsonl"), validation=str(tmp_path / "v.csv"))
    assert streamed.validation is not None
    assert len(streamed.validation) == 1
    assert streamed.apart == frozenset()
    assert set(streamed.sources) == {"train", "validation"}


def test_a_bad_row_is_counted_once_whatever_the_epochs(tmp_path: Path) -> None:
    rows: list[Any] = dolly(20)
    rows[3], rows[11] = {"instruction": "x"}, 5
    (tmp_path / "t.jsonl").write_bytes(jsonl(rows))
    streamed = opened(str(tmp_path / "t.jsonl"), on_bad_row="skip", max_bad_rows=2)
    made = windows(maker(streamed), 4)
    assert made[-1].end.epoch >= 3
    assert sum(window.findings.bad_rows for window in made) == 2
    assert sum(window.findings.rows_read for window in made) == 20
    strict = opened(str(tmp_path / "t.jsonl"), on_bad_row="skip", max_bad_rows=1)
    with pytest.raises(DataError, match=r"more bad rows than data.max_bad_rows 1"):
        windows(maker(strict), 4)
    failing = opened(str(tmp_path / "t.jsonl"))
    with pytest.raises(DataError, match=r"t.jsonl:4: response: is missing|t.jsonl:4"):
        windows(maker(failing), 4)


def test_long_rows_are_cut_or_skipped(tmp_path: Path) -> None:
    rows = [*dolly(10), {"instruction": "Long?", "context": "", "response": "so " * 300}]
    (tmp_path / "t.jsonl").write_bytes(jsonl(rows))
    cut = maker(opened(str(tmp_path / "t.jsonl"), max_length=128)).make(0)
    assert (cut.findings.truncated_rows, int(cut.rows.lengths.max())) == (1, 128)
    left = maker(opened(str(tmp_path / "t.jsonl"), max_length=128, too_long="skip")).make(0)
    assert left.findings.too_long_rows == 1


def test_without_packing_a_sequence_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(jsonl(dolly(30)))
    window = maker(opened(str(tmp_path / "t.jsonl"), packing=False)).make(0)
    assert len(window.bins) == len(window.rows)


def test_data_without_a_row_for_training_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(jsonl([{"instruction": "x", "context": "", "response": ""}] * 3))
    nothing = opened(str(tmp_path / "t.jsonl"), on_bad_row="skip")
    with pytest.raises(DataError, match=r"t.jsonl: no row is left of 3: 3 bad"):
        maker(nothing).make(0)
    (tmp_path / "n.jsonl").write_bytes(b"5\n6\n")
    with pytest.raises(DataError, match=r"n.jsonl:1: is a number"):
        opened(str(tmp_path / "n.jsonl"), on_bad_row="skip")
    (tmp_path / "e.jsonl").write_bytes(b"\n")
    with pytest.raises(DataError, match=r"e.jsonl: has no rows"):
        opened(str(tmp_path / "e.jsonl"))


def test_a_source_that_changed_is_named(tmp_path: Path) -> None:
    for part in range(3):
        (tmp_path / f"{part}.jsonl").write_bytes(jsonl(dolly(5, start=5 * part)))
    before = opened(str(tmp_path))
    opened(str(tmp_path)).check_same(before.files)
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in tmp_path.glob("*.jsonl"):
        (moved / path.name).write_bytes(path.read_bytes())
    opened(str(moved)).check_same(before.files)
    assert opened(str(moved)).fingerprint == before.fingerprint
    (moved / "1.jsonl").write_bytes(jsonl(dolly(5, start=6)))
    with pytest.raises(ConfigError, match=r"moved/1.jsonl: its content is another than when the run was"):
        opened(str(moved)).check_same(before.files)
    (moved / "1.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"was 3 files when the run was stopped, and is 2 now"):
        opened(str(moved)).check_same(before.files)


def test_a_sample_reads_only_the_first_rows_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(jsonl(dolly(30)) + b"{broken\n")
    config = DataConfig(train=str(tmp_path / "t.jsonl"), streaming=True, validation=0.0)
    made = sample(config, tokenizer("smollm2"), chat_template=None, seed=1, rows=20)
    assert len(made.train) == 20
    assert made.report.train.rows == 20
    assert made.report.scope.startswith("data.streaming: the first 20 rows")
    assert "scope" in made.report.to_json()
    assert any(line.startswith("scope") for line in made.report.lines())


def test_a_mark_counts_what_was_trained_on(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(jsonl(dolly(60)))
    window = windows(maker(opened(str(tmp_path / "t.jsonl"))), 3)[2]
    assert window.steps > 2
    whole, part = Mark().after(window, window.steps), Mark().after(window, 1)
    assert (whole.rows, whole.bins) == (len(window.rows), len(window.bins))
    assert (whole.tokens, whole.targets) == (len(window.rows.tokens), int(window.rows.targets.sum()))
    assert part.rows == sum(len(window.bins[each]) for each in window.batch(0))
    assert part.tokens == sum(int(window.rows.lengths[window.bins[each]].sum()) for each in window.batch(0))
    assert whole.digest == part.digest != ""
    assert np.array_equal(np.sort(window.rows_until(window.steps)), np.arange(len(window.rows)))


def test_a_validation_row_that_comes_up_again_in_training_is_counted_once(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(jsonl(dolly(20)))
    (tmp_path / "v.jsonl").write_bytes(jsonl([dolly(1, start=90)[0], dolly(1, start=4)[0]]))
    streamed = opened(str(tmp_path / "t.jsonl"), validation=str(tmp_path / "v.jsonl"))
    mark = Mark()
    for window in windows(maker(streamed), 4):
        mark = Mark.of_plain(
            json.loads(json.dumps(mark.within(window).after(window, window.steps).to_plain()))
        )
    assert mark.start.epoch >= 2
    report = report_of(streamed, mark)
    assert report.overlap.rows == 1
    assert report.overlap.places == (f"{tmp_path / 'v.jsonl'}:2 is {tmp_path / 't.jsonl'}:5",)
    assert any("in both validation and training" in warning for warning in report.warnings())
