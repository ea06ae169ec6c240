"""A hub in trouble, as ``packtrain train`` and ``packtrain stage`` meet it: one sentence, or nothing lost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from standins.bucket import BucketServer, bucket_server
from standins.hub import Hub, Repo, point_here, serve_hub
from standins.hub_files import commit_of
from tiny import make_tiny_base
from whole_run import Ended, facts, make_job, packtrain, write_rows

from packtrain.rundir import RunDir

__all__ = ["bucket_server"]

SHARD, ROWS = r"model\.safetensors", r"train\.jsonl"
#: Of a body, some pieces of the client's.
CHUNK, AFTER = 16_384, 100_000


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base") / "b")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows") / "d"
    folder.mkdir()
    write_rows(folder / "train.jsonl", facts(24))
    return folder


@pytest.fixture
def hub(base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve_hub({"o/m": base}, {"o/d": rows}) as hub:
        hub.known.add("hf_stranger")
        point_here(monkeypatch, hub, tmp_path / "home")
        monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", CHUNK)
        yield hub


class Command:
    """``packtrain train`` or ``packtrain stage`` of a run whose base and data are on the hub."""

    def __init__(self, verb: str, folder: Path, bucket: BucketServer) -> None:
        self.verb, self.folder, self.bucket = verb, folder, bucket
        data = {"train": "o/d", "validation": 0.15, "max_length": 256}
        # Training writes no bucket: that is not what goes wrong here.
        output = {"uri": bucket.uri("final")} if verb == "stage" else {}
        train = {"max_steps": 1}
        job = make_job(folder / "job", Path("o/m"), data=data, output=output, train=train)
        self.words = [verb, str(job.run_file)]
        if verb == "train":
            self.words += ["--run-dir", str(folder / "run")]

    def __call__(self, *more: str) -> Ended:
        return packtrain(*self.words, *more)

    def left(self) -> list[str]:
        """What stands somewhere as if it were done."""
        staged = [name for name in self.bucket.buckets[self.bucket.bucket] if name.endswith("/staged.json")]
        receipt = RunDir(self.folder / "run").receipt_file
        return staged + ([receipt.name] if receipt.exists() else [])


@pytest.fixture(params=["train", "stage"])
def command(request: pytest.FixtureRequest, tmp_path: Path, bucket_server: BucketServer) -> Command:
    return Command(request.param, tmp_path, bucket_server)


def is_one_sentence(ended: Ended, code: int, words: str) -> None:
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert words in errors[0]


def blobs_are_whole(home: Path) -> None:
    """A large file is named by its SHA-256 in the client's cache; nothing half-done lies beside it."""
    blobs = list((home / "hub").glob("*/blobs/*"))
    named = [path for path in blobs if len(path.name) == 64]
    assert named
    for path in named:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert not [path for path in blobs if path.suffix == ".incomplete"]


@pytest.mark.parametrize(
    ("pattern", "how", "times"),
    [(SHARD, "closed", 3), (SHARD, "reset", 2), (SHARD, "short", 1), (ROWS, "closed", 1)],
)
def test_a_body_that_is_cut_is_gone_on_with(
    hub: Hub,
    command: Command,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    pattern: str,
    how: str,
    times: int,
) -> None:
    after = AFTER if pattern == SHARD else 40
    hub.cut(pattern, how, after=after, times=times)  # type: ignore[arg-type]
    ended = command()
    assert ended.code == 0, ended.err
    assert hub.cuts[0].times == 0
    assert command.left()
    blobs_are_whole(tmp_path / "home")
    # What the client gives up at is asked for again by us.
    said = [*ended.err.splitlines(), *caplog.messages]
    cut = "a download from the Hugging Face hub was cut: it goes on where it stopped"
    assert (cut in said) == (how == "closed")
    assert any("asking for the rest again" in line for line in said) == (how != "closed")
    assert not any("http://" in line for line in said)


@pytest.mark.parametrize(
    ("how", "words"),
    [("short", "came incomplete"), ("reset", "does not answer"), ("closed", "does not answer")],
)
def test_a_body_that_never_comes_whole(
    hub: Hub, command: Command, tmp_path: Path, how: str, words: str
) -> None:
    hub.cut(SHARD, how, after=0)  # type: ignore[arg-type]
    is_one_sentence(command(), 69, words)
    assert not command.left()
    assert not list((tmp_path / "home").rglob("model.safetensors"))
    # Nothing is left of it that a later try would take for the file.
    hub.cuts.clear()
    assert command().code == 0
    blobs_are_whole(tmp_path / "home")


@pytest.mark.parametrize("status", [500, 503])
def test_a_storm_of_5xx(hub: Hub, command: Command, tmp_path: Path, status: int) -> None:
    hub.fail(SHARD, status, times=8)
    ended = command()
    assert ended.code == 0, ended.err
    blobs_are_whole(tmp_path / "home")


def test_a_storm_that_goes_on(hub: Hub, command: Command) -> None:
    hub.fail(SHARD, 503)
    is_one_sentence(command(), 69, "answers with status 503")
    assert not command.left()
    assert len([line for line in hub.requests if line.endswith("model.safetensors")]) < 60


def test_a_hub_that_asks_for_fewer_requests(
    hub: Hub, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    hub.fail(SHARD, 429, times=3, Retry_After="1")
    ended = command()
    assert ended.code == 0, ended.err
    assert "the Hugging Face hub asks for fewer requests: asked again in 2.0 s (1/5)" in caplog.messages


def test_a_hub_that_never_has_enough(hub: Hub, command: Command) -> None:
    hub.fail("/", 429, Retry_After="1")
    is_one_sentence(command(), 69, "limits the rate of requests (status 429)")


def test_a_token_that_is_refused(hub: Hub, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    ended = command()
    is_one_sentence(ended, 77, "the Hugging Face token was refused")
    assert "hf_wrong" not in ended.err


@pytest.mark.parametrize(("token", "words"), [(None, "there is no"), ("hf_stranger", "has not been let in")])
def test_a_gated_model(
    hub: Hub, command: Command, base: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, words: str
) -> None:
    hub.repos["models", "o/m"] = Repo({"main": base}, gated=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    ended = command()
    is_one_sentence(ended, 77, "the model o/m is gated")
    assert words in ended.err
    assert "https://huggingface.co/o/m" in ended.err
    assert not [line for line in hub.requests if line.startswith("GET") and "/o/m/" in line]


@pytest.mark.parametrize("revision", ["v9", "a" * 40])
def test_a_revision_that_is_not_there(hub: Hub, command: Command, revision: str) -> None:
    words = f"the model o/m has no revision '{revision}'"
    is_one_sentence(command("-s", f"model.revision={revision}"), 78, words)


def test_no_network(hub: Hub, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_here(monkeypatch, "http://127.0.0.1:9", tmp_path / "home")
    is_one_sentence(command(), 69, "does not answer, asked for")
    assert not command.left()


def test_what_was_staged_after_a_cut_is_what_the_hub_has(
    hub: Hub, base: Path, tmp_path: Path, bucket_server: BucketServer
) -> None:
    hub.cut(SHARD, "closed", after=AFTER, times=2)
    assert Command("stage", tmp_path, bucket_server)().code == 0
    name = f"packtrain-staged/models--o--m/{commit_of(base)}/files/model.safetensors"
    assert bucket_server.buckets[bucket_server.bucket][name].data == (base / "model.safetensors").read_bytes()
