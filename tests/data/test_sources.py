"""Which files a local source means, in which order, how far they are read, and their fingerprint."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from packtrain.data.rows import BadRow, Row
from packtrain.data.sources import Source, open_source
from packtrain.errors import ConfigError, DataError

NEITHER = "is neither a file here, nor a data set of the hub (OWNER/NAME), nor gs://BUCKET/…"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, *values: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f'{{"a": {value}}}\n' for value in values))
    return path


def values(source: Source) -> list[int]:
    return [row.fields["a"] for row in source if isinstance(row, Row)]


def test_a_file_is_named_from_the_current_folder(here: Path) -> None:
    write(here / "d/x.jsonl", 1, 2)
    for spelling in ("d/x.jsonl", "./d/x.jsonl", str(here / "d/x.jsonl")):
        assert [item.place for item in open_source(spelling)] == ["d/x.jsonl:1", "d/x.jsonl:2"]


def test_a_file_elsewhere_keeps_its_whole_name(tmp_path_factory: pytest.TempPathFactory, here: Path) -> None:
    path = write(tmp_path_factory.mktemp("other") / "x.jsonl", 1)
    assert [item.place for item in open_source(str(path))] == [f"{path}:1"]


def test_a_folder_is_its_data_files_sorted_without_hidden_and_metadata(here: Path) -> None:
    for name, value in [("d/b.jsonl", 3), ("d/a/z.jsonl", 2), ("d/a/y.jsonl", 1)]:
        write(here / name, value)
    for name in (".hidden.jsonl", ".git/x.jsonl", "dataset_info.json", "README.md", "notes.txt"):
        write(here / "d" / name, 99)
    assert values(open_source("d")) == [1, 2, 3]


def test_a_glob_and_a_list_keep_their_order(here: Path) -> None:
    for number in (3, 1, 2):
        write(here / f"part-{number}.jsonl", number)
    write(here / "part-0.md", 9)
    write(here / "deep/er/part-4.jsonl", 4)
    assert values(open_source("part-*")) == [1, 2, 3]
    assert values(open_source("**/part-*.jsonl")) == [4, 1, 2, 3]
    assert values(open_source(str(here / "part-[12].jsonl"))) == [1, 2]
    assert values(open_source(["part-3.jsonl", "part-[12].jsonl"])) == [3, 1, 2]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(here: Path) -> None:
    write(here / "x[1].jsonl", 1)
    write(here / "x1.jsonl", 2)
    assert values(open_source("x[1].jsonl")) == [1]


def test_limit_counts_over_files_and_stops_before_the_rest_is_opened(here: Path) -> None:
    write(here / "a.jsonl", 1, 2)
    (here / "b.jsonl").write_text('{"a": 3}\nbroken\n{"a": 4}\n')
    source = open_source(["a.jsonl", "b.jsonl"], limit=4)
    assert [type(item) for item in source] == [Row, Row, Row, BadRow]
    assert len(list(source)) == 4, "a source can be read again"
    (here / "b.jsonl").unlink()
    assert values(Source("x", source.files, limit=2)) == [1, 2]


def test_description_and_fingerprint_follow_the_bytes_not_the_name(here: Path) -> None:
    one, two = write(here / "one.jsonl", 1, 2), write(here / "two.jsonl", 3)
    source = open_source(["one.jsonl", "two.jsonl"])
    assert source.description == {
        "source": ["one.jsonl", "two.jsonl"],
        "revision": None,
        "fingerprint": source.fingerprint(),
        "files": [
            {"name": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for path, data in ((one, one.read_bytes()), (two, two.read_bytes()))
        ],
    }
    one.rename("renamed.jsonl")
    assert open_source(["renamed.jsonl", "two.jsonl"]).fingerprint() == source.fingerprint()
    assert open_source(["two.jsonl", "renamed.jsonl"]).fingerprint() != source.fingerprint()
    write(here / "two.jsonl", 4)
    assert open_source(["renamed.jsonl", "two.jsonl"]).fingerprint() != source.fingerprint()


@pytest.mark.parametrize(
    ("source", "kind", "sentence"),
    [
        ("trian.jsonl", ConfigError, "trian.jsonl: is not there; did you mean train.jsonl?"),
        ("nowhere/train.jsonl", ConfigError, "nowhere/train.jsonl: is not there, nor is the folder nowhere"),
        ("zzz*.jsonl", ConfigError, "zzz*.jsonl: no file matches"),
        ("./abc", ConfigError, "./abc: is not there"),
        ("abc", ConfigError, f"abc: {NEITHER}"),
        ("s3://b/x", ConfigError, f"s3://b/x: {NEITHER}"),
        ("notes.txt", DataError, "notes.txt: is not a data file by its extension"),
        ("notes*", DataError, "notes*: matches 1 files, none of them a data file"),
        ("empty", DataError, "empty: has no data file in it"),
    ],
)
def test_what_is_not_there_or_not_data(here: Path, source: str, kind: type[Exception], sentence: str) -> None:
    write(here / "train.jsonl", 1)
    (here / "notes.txt").write_text("x")
    (here / "empty").mkdir()
    with pytest.raises(kind) as caught:
        open_source(source)
    assert str(caught.value) == sentence


def test_a_file_without_rows_among_others_is_named(here: Path) -> None:
    write(here / "a.jsonl", 1)
    (here / "b.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"^b\.jsonl: has no rows$"):
        list(open_source(["a.jsonl", "b.jsonl"]))


def test_a_file_that_goes_away_before_it_is_read(here: Path) -> None:
    source = open_source(str(write(here / "a.jsonl", 1)))
    (here / "a.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"^a\.jsonl: cannot be read \(No such file or directory\)$"):
        list(source)
