"""A run's folder and its events: identity, torn lines, what a resume supersedes."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from packtrain import rundir
from packtrain.errors import ConfigError, StorageError
from packtrain.rundir import Event, EventWriter, RunDir, RunIdentity, history, new_run_id, tell_end


def event(kind: str, step: int, attempt: int = 1, seq: int = 0, **fields: object) -> Event:
    return Event(kind, step, attempt, seq, "2026-11-24T05:09:42.123Z", fields=dict(fields))


def test_run_ids_are_ulids_that_sort_by_time() -> None:
    # 01ARYZ6S41 is 1469918176385 ms in https://github.com/ulid/spec
    assert new_run_id(1469918176.385, bytes(10)) == "01ARYZ6S41" + "0" * 16
    assert new_run_id(1.0) < new_run_id(2.0) < new_run_id()
    assert len({new_run_id() for _ in range(1000)}) == 1000
    assert re.fullmatch(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", new_run_id())


def test_an_atomic_write_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    rundir.write_atomically(path, b"one")
    rundir.write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_an_atomic_write_that_fails_keeps_the_old_and_says_where(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.mkdir()
    with pytest.raises(StorageError, match=f"cannot write {path}"):
        rundir.write_atomically(path, b"x")
    assert list(tmp_path.iterdir()) == [path]


def test_a_parent_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        rundir.write_atomically(tmp_path / "file" / "x", b"x")
    with pytest.raises(StorageError, match="cannot write"):
        EventWriter(tmp_path / "file" / "events.jsonl", 1)


def test_identity_round_trip_and_absence(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    assert folder.identity() is None
    identity = RunIdentity("a", new_run_id(), "0" * 64, {"train": {"epochs": 1.0}}, rundir.timestamp())
    rundir.write_atomically(folder.identity_file, identity.to_json())
    assert folder.identity() == identity


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"name": "a"}', '{"other": 1}', "\xff"])
def test_a_damaged_identity_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="is not a run's identity"):
        RunDir(tmp_path).identity()


def test_places_are_those_that_others_rely_on() -> None:
    folder = RunDir(Path("runs/a"))
    names = [
        folder.config_file,
        folder.events_file,
        folder.checkpoints,
        folder.adapter,
        folder.receipt_file,
        folder.report_file,
    ]
    expected = ["config.yaml", "events.jsonl", "checkpoints", "adapter", "receipt.json", "report.html"]
    assert [str(path.relative_to("runs/a")) for path in names] == expected


def test_each_event_is_a_json_line_with_the_promised_keys(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path, attempt=1) as writer:
        writer.write("start", 0, resumed_from=None)
        writer.write("step", 1, loss=2.5, note="한국어")
        writer.write("step", 2, loss=float("nan"), grad_norm=float("inf"))
        assert len(path.read_bytes().splitlines()) == 3  # whole before the writer is closed
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(line["kind"], line["step"], line["seq"]) for line in lines] == [
        ("start", 0, 0),
        ("step", 1, 1),
        ("step", 2, 2),
    ]
    assert all(line["version"] == 1 and line["attempt"] == 1 for line in lines)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    assert lines[1]["note"] == "한국어"
    assert float(lines[2]["grad_norm"]) == float("inf")
    assert "NaN" not in path.read_text()


def test_an_event_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path, attempt=3) as writer:
        written = [writer.write("eval", 0, model="base", loss=1.5), writer.write("end", 4, exit_code=0)]
    assert history(path) == written
    assert rundir.last_attempt(path) == 3
    assert rundir.last_attempt(tmp_path / "absent") == 0


def test_an_unknown_kind_is_not_written(tmp_path: Path) -> None:
    with EventWriter(tmp_path / "e", 1) as writer, pytest.raises(AssertionError):
        writer.write("surprise", 0)  # type: ignore[arg-type]


def test_a_torn_last_line_is_passed_over_and_then_cut(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    whole = event("step", 1, loss=1.0).to_line() + "\n"
    for length in range(len(whole)):
        path.write_text(whole + whole[:length])
        assert [past.step for past in history(path)][:1] == [1]
        with EventWriter(path, 2) as writer:
            writer.write("warning", 1, message="after")
        kinds = [past.kind for past in history(path)]
        assert kinds == ["step", "warning"]


def test_a_file_that_is_only_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"kind": "st')
    assert history(path) == []
    EventWriter(path, 1).close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("line", ["", "null", "[]", "3", "{}", '{"kind": "step"}', "\x00" * 9, "{" * 5])
def test_lines_that_are_no_events_are_passed_over(line: str) -> None:
    good = event("step", 1).to_line()
    assert [each.step for each in rundir.parse_events([line, good, line])] == [1]


def test_unknown_kinds_are_ignored_and_unknown_fields_kept() -> None:
    unknown = json.dumps(json.loads(event("step", 1).to_line()) | {"kind": "from-the-future"})
    extended = json.dumps(json.loads(event("step", 1).to_line()) | {"gpu_seconds": 3})
    (kept,) = rundir.parse_events([unknown, extended])
    assert kept.fields == {"gpu_seconds": 3}


def test_a_resume_supersedes_the_steps_after_its_checkpoint() -> None:
    events = [
        event("start", 0, resumed_from=None),
        event("step", 1, loss=3.0),
        event("checkpoint", 1),
        event("step", 2, loss=2.0),
        event("eval", 2, model="adapter"),
        event("warning", 2, message="stays"),
        event("start", 1, attempt=2, resumed_from=1),
        event("step", 2, attempt=2, loss=1.0),
    ]
    told = [(past.kind, past.step, past.attempt) for past in history(events)]
    assert told == [
        ("start", 0, 1),
        ("step", 1, 1),
        ("checkpoint", 1, 1),
        ("warning", 2, 1),
        ("start", 1, 2),
        ("step", 2, 2),
    ]


def test_two_resumes_from_older_and_older_checkpoints() -> None:
    events = [event("start", 0)]
    events += [event("step", step) for step in range(1, 6)]
    events += [event("start", 4, 2, resumed_from=4), event("step", 5, 2)]
    events += [event("start", 2, 3, resumed_from=2), event("step", 3, 3)]
    steps = [(past.step, past.attempt) for past in history(events) if past.kind == "step"]
    assert steps == [(1, 1), (2, 1), (3, 3)]


def test_an_evaluation_that_was_done_again_is_told_once() -> None:
    """Cut off after an evaluation and before the next checkpoint, and resumed from the one before it."""
    events = [event("start", 0, 1), event("eval", 0, 1), event("step", 1, 1), event("preempted", 1, 1)]
    for attempt in (2, 3):
        events += [event("start", 1, attempt, resumed_from=1), event("eval", 1, attempt)]
    told = [(past.step, past.attempt) for past in history(events) if past.kind == "eval"]
    assert told == [(0, 1), (1, 3)]


def test_a_start_from_nothing_takes_all_progress_back() -> None:
    events = [
        event("start", 0),
        event("step", 1),
        event("start", 0, 2, resumed_from=None),
        event("step", 1, 2),
    ]
    assert [past.attempt for past in history(events) if past.kind == "step"] == [2]


def test_segment_names_sort_as_the_events_do() -> None:
    order = [(1, 0), (1, 9), (1, 10), (2, 0), (10, 0)]
    names = [rundir.segment_name(event("step", 1, attempt, seq)) for attempt, seq in order]
    assert names == sorted(names)


def test_a_full_disk_is_told() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full: not on this system")
    writer = object.__new__(EventWriter)
    writer.path, writer.attempt, writer.seq = Path("/dev/full"), 1, 0
    writer._mutex = threading.Lock()
    with Path("/dev/full").open("ab", buffering=0) as writer._file:
        with pytest.raises(StorageError, match="No space left"):
            writer.write("warning", 0)
        assert writer.seq == 0


def test_what_fits_only_in_part_is_taken_back(tmp_path: Path) -> None:
    """The disk is full in the middle of a line: what is written when there is room again is whole."""
    path = tmp_path / "events.jsonl"
    soft, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    with EventWriter(path, 1) as writer:
        writer.write("step", 1, loss=1.0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, most))
        try:
            with pytest.raises(StorageError, match=r"10 of .* bytes written"):
                writer.write("step", 2, loss=1.0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, most))
        writer.write("end", 1, exit_code=74)
    assert [(event.kind, event.seq) for event in history(path)] == [("step", 0), ("end", 1)]
    assert len(path.read_bytes().splitlines()) == 2


_KILLED = """
import sys
from packtrain.rundir import EventWriter
from pathlib import Path
writer = EventWriter(Path(sys.argv[1]), 1)
step = 0
while True:
    step += 1
    writer.write("step", step, loss=1.0)
    if step == 50:
        print("ready", flush=True)
"""


def test_a_killed_writer_leaves_whole_events(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    source = str(Path(rundir.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": source}
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, env=environment
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        writer.kill()
    steps = [past.step for past in history(path)]
    assert len(steps) >= 50
    assert steps == list(range(1, len(steps) + 1))


def test_the_end_of_a_killed_attempt_is_told_by_who_outlives_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tell_end(path, 70, "nobody began")
    assert not path.exists()
    with EventWriter(path, 1) as writer:
        writer.write("start", 0)
        writer.write("step", 1)
    tell_end(path, 70, "rank 1 was killed")
    tell_end(path, 69, "said already")
    last = history(path)[-1]
    assert (last.kind, last.step, last.seq, last.fields["exit_code"]) == ("end", 1, 2, 70)
    assert len(history(path)) == 3


def test_the_cause_is_told_after_its_echo(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path, 1) as writer:
        writer.write("end", 4, exit_code=69, message="ended, because another rank did")
    tell_end(path, 69, "rank 0 lost rank 1")
    assert len(history(path)) == 1
    tell_end(path, 70, "rank 1 died of SIGSEGV")
    assert [event.fields["exit_code"] for event in history(path)] == [69, 70]


def _naively(events: list[Event]) -> list[Event]:
    """The rule as it is said, a list for each event."""
    story: list[Event] = []
    for event in events:
        if event.kind == "start":
            resumed_from = event.fields.get("resumed_from") or -1
            story = [past for past in story if past.kind not in rundir.PROGRESS or past.step <= resumed_from]
        elif event.kind == "eval":
            story = [past for past in story if (past.kind, past.step) != ("eval", event.step)]
        story.append(event)
    return story


@pytest.mark.parametrize("seed", range(40))
def test_a_stream_tells_what_the_rule_says(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "events.jsonl"
    _write_some(path, seed)
    with path.open("a") as file:
        file.write('{"kind": "start", "torn')
    events = list(rundir.parse_events(path.read_text().splitlines()))
    assert list(rundir.stream(path)) == history(events) == history(path) == _naively(events)
    assert list(rundir.stream(tmp_path / "none")) == []


def test_who_reads_on_sees_what_takes_something_back(tmp_path: Path) -> None:
    found = set()
    for seed in range(10):
        _write_some(tmp_path / f"{seed}.jsonl", seed)
        events = list(rundir.parse_events((tmp_path / f"{seed}.jsonl").read_text().splitlines()))
        for count, event in enumerate(events):
            before, after = history(events[:count]), history(events[: count + 1])
            so_far = rundir.SoFar()
            for told in before:
                so_far.add(told)
            assert so_far.takes_back(event) == (after != [*before, event])
            found.add((event.kind, so_far.takes_back(event)))
    assert found >= {("start", True), ("start", False), ("eval", True), ("eval", False)}
    assert not found & {("step", True), ("checkpoint", True)}


def _write_some(path: Path, seed: int) -> None:
    draw = random.Random(seed)
    kinds: list[rundir.Kind] = ["step", "step", "eval", "checkpoint", "warning", "start"]
    with EventWriter(path, 1) as writer:
        for _ in range(60):
            kind = draw.choice(kinds)
            fields = (
                {"resumed_from": draw.choice([None, 0, 2, 5])} if kind == "start" else {"message": '"eval"'}
            )
            writer.write(kind, draw.randrange(8), **fields)
