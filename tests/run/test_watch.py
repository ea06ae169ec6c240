"""The readers and the pure parts of the live view: incremental, right after a resume, and in lines."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from report_kit import DONE, PREEMPTED, Make, evaluated, failed, make_run, saved, started, step
from standins.bucket import BucketServer, bucket_server

from packtrain.cli.main import main
from packtrain.errors import ConfigError, StorageError
from packtrain.report.story import gather
from packtrain.run.watch_curves import draw_all, draw_losses
from packtrain.run.watch_source import EventTail, Watched
from packtrain.run.watch_view import Standing, View, progress_bar, seconds_left
from packtrain.run.watching import changes
from packtrain.rundir import EventWriter, RunDir, stream
from packtrain.runfile import load

__all__ = ["bucket_server", "make_run"]


def in_no_cluster(_: object) -> Standing:
    raise AssertionError("no cluster is named")


def look(run_dir: RunDir) -> View:
    return Watched(str(run_dir.path), in_no_cluster).look()


def lines(view: View) -> list[str]:
    return [line.partition("  ")[2] for _, line in view.events]


def test_every_reading_is_that_of_the_whole_file(make_run: Make, tmp_path: Path) -> None:
    attempts = [
        [
            started(),
            evaluated(0, 4.0),
            *(step(n) for n in range(1, 5)),
            saved(2),
            evaluated(4, 3.0),
            PREEMPTED,
        ],
        [started(2), *(step(n, loss=9.0) for n in range(3, 7)), evaluated(6, 2.0), evaluated(6, 1.5), DONE],
        [started(6), DONE],
    ]
    data = make_run(*attempts).events_file.read_bytes()
    grown = tmp_path / "grown.jsonl"
    tail = EventTail(grown)
    assert not tail.read(), "no file is no event"
    for end in range(0, len(data) + 100, 97):  # in the middle of lines
        grown.write_bytes(data[:end])
        tail.read()
        whole = gather(stream(grown, data[:end].rfind(b"\n") + 1))
        assert tail.story == whole, end
        assert not tail.read(), "nothing is read twice"
    assert tail.story.step == 6 and tail.story.loss == 1.5 and tail.story.outcome == "done"


def test_another_run_in_the_same_folder_begins_anew(make_run: Make) -> None:
    run_dir = make_run([started(), *(step(n) for n in range(1, 5)), DONE])
    tail = EventTail(run_dir.events_file)
    tail.read()
    run_dir.events_file.unlink()
    assert tail.read() and tail.story.step == 0
    with EventWriter(run_dir.events_file, 1) as writer:
        writer.write("start", 0, **started(steps=3)[2])
    assert tail.read() and tail.story.steps == 3


def test_events_that_cannot_be_read_are_one_sentence(make_run: Make) -> None:
    run_dir = make_run([started()])
    run_dir.events_file.unlink()
    run_dir.events_file.mkdir()
    with pytest.raises(StorageError, match="cannot read"):
        look(run_dir)


def test_what_is_shown(make_run: Make) -> None:
    view = look(make_run([started(), evaluated(0, 4.0), step(1), saved(1), step(2), evaluated(2, 2.5)]))
    assert view.figures == (
        "step 2/6", "loss 2.8000", "validation 2.5000", "1,000 tokens/s", "memory 1.00 GB", "about 0 s left",
        "checkpoint of step 1",
    )  # fmt: skip
    assert list(view.loss) == [(1.0, 2.9), (2.0, 2.8)]
    assert list(view.validation) == [(0.0, 4.0), (2.0, 2.5)]
    assert view.status == "attempt 1 goes on" and not view.over
    assert any("validation loss of the adapter 2.5000" in line for line in lines(view))


def test_time_left_is_by_tokens_and_speed(make_run: Make) -> None:
    run_dir = make_run([started(steps=10), *(step(n, tokens_per_second=5.0) for n in range(1, 5))])
    assert seconds_left(gather(stream(run_dir.events_file))) == pytest.approx(6 * 100 / 5)
    ended = make_run([started(), step(1), failed(71, "no memory")], name="b")
    assert seconds_left(gather(stream(ended.events_file))) is None


@pytest.mark.parametrize("word", [DONE, PREEMPTED, failed(79, "the loss is NaN")])
def test_a_run_that_has_ended_says_so(make_run: Make, word: tuple[str, int, dict[str, object]]) -> None:
    view = look(make_run([started(), step(1, loss="nan"), word]))
    assert view.over and view.status.startswith("ended: ")
    assert str(word[2].get("message", "done and verified")) in view.status


def test_an_empty_folder_waits(tmp_path: Path) -> None:
    view = Watched(str(tmp_path), in_no_cluster).look()
    assert view.status == "no events yet: waiting for the run to begin"
    assert not view.over and draw_losses(view, 80, 10) == ["There is no step yet."]


@pytest.mark.parametrize(("width", "height"), [(80, 10), (118, 40), (20, 4), (17, 3)])
def test_curves_fit_their_room(make_run: Make, width: int, height: int) -> None:
    told = [started(steps=900), evaluated(0, 4.0), *(step(n, loss=3 - n / 300) for n in range(1, 801))]
    drawn = draw_losses(look(make_run([*told, evaluated(800, 1.0)])), width, height)
    assert len(drawn) == height and all(len(line) <= width for line in drawn)
    assert any("o" in line for line in drawn) and any(
        0x2800 < ord(c) < 0x2900 for line in drawn for c in line
    )
    assert drawn[-1].endswith("900")


def test_no_room_and_one_value_are_no_error(make_run: Make) -> None:
    view = look(make_run([started(), step(1), step(2, loss=2.9)]))
    assert draw_losses(view, 5, 5) == [] and draw_losses(view, 80, 1) == []
    assert len(draw_losses(view, 80, 5)) == 5


@pytest.mark.parametrize(("width", "height"), [(78, 11), (80, 8), (110, 18), (118, 40), (24, 30), (10, 9)])
def test_speed_and_memory_stand_below_the_losses(make_run: Make, width: int, height: int) -> None:
    told = [step(n, tokens_per_second=900.0 + n, peak_bytes=2e9) for n in range(1, 601)]
    drawn = draw_all(look(make_run([started(steps=900), evaluated(0, 4.0), *told])), width, height)
    assert len(drawn) <= height and all(len(line) <= width for line in drawn[1:])
    text = "\n".join(drawn)
    if width < 40:
        return
    assert len(drawn) == height
    if height >= 18:
        assert "Speed: tokens/s" in text and "Memory: bytes" in text and "1500" in text and "2 G" in text
    else:
        speed, memory = drawn[-2:]
        assert speed.startswith("Speed (tokens/s) ") and speed.endswith(" 1500")
        assert memory.startswith("Memory (bytes)   ") and memory.endswith(" 2 G")
        bars = memory.removeprefix("Memory (bytes)   ").removesuffix(" 2 G")
        assert set(bars.rstrip()) == {"█"} and len(bars.rstrip()) / len(bars) == pytest.approx(
            2 / 3, abs=0.05
        )


def test_nothing_of_speed_where_there_is_none_or_no_room(make_run: Make) -> None:
    view = look(make_run([started(), evaluated(0, 4.0)]))
    assert "Speed" not in "\n".join(draw_all(view, 80, 30))
    view = look(make_run([started(), step(1)], name="b"))
    assert "Speed" not in "\n".join(draw_all(view, 80, 7)) and "Speed" in "\n".join(draw_all(view, 80, 8))


def test_the_bar() -> None:
    assert progress_bar(5, 10, 27) == "█" * 10 + "·" * 10 + "   50 %"
    assert progress_bar(5, None, 27) == "" == progress_bar(5, 10, 3)


def test_changes_are_said_once(make_run: Make) -> None:
    run_dir = make_run([started(), step(1)])
    watched = Watched(str(run_dir.path), in_no_cluster)
    first = watched.look()
    assert "attempt 1 goes on" in changes(None, first)
    assert changes(first, watched.look()) == []
    with EventWriter(run_dir.events_file, 2) as writer:
        for kind, at, fields in (started(None), step(1), saved(1), step(2), DONE):
            writer.write(kind, at, **fields)
    said = changes(first, watched.look())
    assert sum("checkpoint saved" in line for line in said) == 1
    assert sum(line.startswith("step 2/6") for line in said) == 1
    assert said[-1] == "ended: done and verified"


def test_the_verb_in_lines(make_run: Make, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run_dir = make_run([started(), step(1), DONE])
    assert main(["watch", str(run_dir.path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ended: done and verified"
    assert main(["watch", str(tmp_path / "none")]) == 78
    assert "is not there" in capsys.readouterr().err


def test_the_verb_in_json(make_run: Make, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(make_run([started(), step(1), DONE]).path)
    assert main(["watch", run, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert (told["step"], told["steps"], told["loss"], told["ended"]) == (1, 6, 2.9, True)
    assert told["validation_loss"] is None and told["status"] == "ended: done and verified"
    assert main(["watch", run, "--json", "--web"]) == 2


def test_ctrl_c_is_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    assert main(["watch", str(tmp_path)]) == 0
    assert "waiting for the run to begin" in capsys.readouterr().out


RUN = """
name: far
model: {source: meta-llama/Meta-Llama-3-8B-Instruct}
data: {train: databricks/databricks-dolly-15k}
output: {uri: "URI"}
cluster: {project: a-project, location: us-central1, name: a-cluster, machine: a3-highgpu-8g}
"""


def test_a_job_that_waits_has_nothing_in_its_bucket_yet(
    bucket_server: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.yaml").write_text(RUN.replace("URI", bucket_server.uri("final")))
    monkeypatch.chdir(tmp_path)
    watched = Watched("run.yaml", lambda _: Standing("queued: no node has 8 GPUs", False))
    view = watched.look()
    watched.close()
    assert view.cluster == "queued: no node has 8 GPUs" and view.status.startswith("no events yet")
    assert not view.over and view.note is not None and "holds no run" in view.note


def test_a_job_on_a_cluster(
    bucket_server: BucketServer, make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run([started(), step(1)], name="far")
    (tmp_path / "runs").mkdir()
    (tmp_path / "far").rename(tmp_path / "runs" / "far")
    (tmp_path / "run.yaml").write_text(RUN.replace("URI", bucket_server.uri("final")))
    monkeypatch.chdir(tmp_path)
    assert load(Path("run.yaml"), []).config.cluster.name == "a-cluster"
    view = Watched("run.yaml", lambda _: Standing("training: step 9/10", False, ("step 9/10",))).look()
    assert view.cluster == "training: step 9/10" and view.log == ("step 9/10",) and not view.over
    assert "training: step 9/10" in changes(None, view)
    view = Watched("run.yaml", lambda _: Standing("failed: no image", True)).look()
    assert view.over, "its pods may have had no word"

    view = Watched("run.yaml", lambda _: Standing("gone: no job", None)).look()
    assert not view.over, "it is trained on this machine"

    def away(_: object) -> Standing:
        raise ConfigError("the cluster is away")

    view = Watched("run.yaml", away).look()
    assert view.note == "the cluster is away" and view.step == 1 and not view.over
