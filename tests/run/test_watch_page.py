"""The page of a run that goes on, asked for over loopback."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from report_kit import DONE, Make, make_run, started, step
from standins.bucket import BucketServer, bucket_server
from watch_kit import served

from packtrain.cli.main import main
from packtrain.run.watch_page import LOOPBACK
from packtrain.run.watch_source import Watched
from packtrain.run.watch_view import Standing
from packtrain.rundir import EventWriter
from packtrain.storage import open_storage

__all__ = ["bucket_server", "make_run"]
REFRESH = '<meta http-equiv="refresh" content="5">'


def asked(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        return str(answer.read().decode())


def test_it_grows_with_the_run_and_then_asks_no_more(make_run: Make) -> None:
    run_dir = make_run([started(), step(1)])
    with served(run_dir.path) as server:
        page = asked(server.url)
        assert REFRESH in page and "1 of 6" in page and "<svg" in page
        with EventWriter(run_dir.events_file, 2) as writer:
            for kind, at, fields in (started(1), step(2), DONE):
                writer.write(kind, at, **fields)
        for _ in range(600):
            page = asked(server.url)
            if "2 of 6" in page:
                break
            threading.Event().wait(0.1)
        assert "2 of 6" in page and "done and verified" in page and REFRESH not in page


def test_an_empty_folder(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        page = asked(server.url)
    assert "The run has not begun" in page and REFRESH in page


def test_it_answers_this_machine_alone_and_this_page_alone(make_run: Make) -> None:
    with served(make_run([started(), step(1)]).path) as server:
        port = server.server_address[1]
        assert server.server_address[0] == LOOPBACK
        for host, path, status in (
            (f"{LOOPBACK}:{port}", "/", 200),
            (f"localhost:{port}", "/", 200),
            (f"elsewhere.example:{port}", "/", 403),
            (f"{LOOPBACK}:{port}", "/run.json", 404),
            (f"{LOOPBACK}:{port}", "/../run.json", 404),
        ):
            connection = http.client.HTTPConnection(LOOPBACK, port, timeout=60)
            connection.request("HEAD", path, headers={"Host": host})
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (status, b""), (host, path)
            connection.close()


def test_a_port_that_is_taken(make_run: Make, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["watch", str(make_run([started()]).path), "--web", "--port", port]) == 2
    assert f"port {port}" in capsys.readouterr().err


@pytest.mark.slow
def test_the_verb_prints_the_address_and_ends_by_ctrl_c(make_run: Make) -> None:
    command = [sys.executable, "-m", "packtrain.cli.main", "watch", "--web"]
    run = str(make_run([started(), step(1)]).path)
    with subprocess.Popen(
        [*command, run], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert "1 of 6" in asked(url)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in told, told


def test_a_place_in_a_bucket_grows(
    bucket_server: BucketServer, make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = make_run([started(), step(1), step(2), DONE])
    uri = bucket_server.uri("runs/a")
    assert main(["watch", uri]) == 78, "nothing is there"
    capsys.readouterr()
    first, second, third, last = run_dir.events_file.read_bytes().splitlines(keepends=True)
    remote = open_storage(uri)
    remote.write("run.json", run_dir.identity_file.read_bytes())
    remote.write("events/000001-0000000000.jsonl", first + second)
    remote.write("logs/20261124T050942Z-node-0/rank-0.log", b"loading\nstep 1/6\n")
    watched = Watched(uri, lambda _: Standing("", False))
    view = watched.look()
    assert view.step == 1 and view.log == ("loading", "step 1/6") and not view.over
    remote.write("events/000001-0000000002.jsonl", third + last)
    view = watched.look()
    assert view.step == 2 and view.over and watched.place == uri
    watched.close()
    remote.close()
