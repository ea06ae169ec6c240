"""``packtrain chat`` on a tiny adapter: what is printed, what is remembered, what is refused."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from standins.bucket import BucketServer, bucket_server  # noqa: F401  (the fixture)
from tiny import make_tiny_base
from trained import Trained, plain_base, trained_on
from transformers import AutoTokenizer

from packtrain.artifacts.receipt import build
from packtrain.cli.main import main
from packtrain.evaluate.chat import Chat
from packtrain.evaluate.generate import generate


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained_on(make_tiny_base(tmp_path_factory.mktemp("base")))


@pytest.fixture
def adapter(trained: Trained, tmp_path: Path) -> Path:
    trained.write(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may ask the hub, whatever it says of a base."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def expected(trained: Trained, adapter: Path, prompt: str, *, base: bool = False) -> str:
    from peft import PeftModel

    model = plain_base(trained.base)
    if not base:
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
    return generate(model, AutoTokenizer.from_pretrained(adapter), [prompt], max_new_tokens=12)[0]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["chat", *arguments, "--max-new-tokens", "12"])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_one_answer_and_nothing_else(
    trained: Trained, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, str(adapter), "--prompt", "who?")
    assert (code, out, err) == (0, expected(trained, adapter, "who?") + "\n", "")


def test_compare_shows_the_base_beside_it(
    trained: Trained, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, str(adapter), "--prompt", "who?", "--compare")
    before, after = (expected(trained, adapter, "who?", base=base) for base in (True, False))
    assert before != after
    assert (code, out) == (0, f"base:    {before}\nadapter: {after}\n")


def test_json(trained: Trained, adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, str(adapter), "--prompt", "누구?", "--compare", "--json")
    assert code == 0
    assert json.loads(out) == {
        "prompt": "누구?",
        "base": expected(trained, adapter, "누구?", base=True),
        "adapter": expected(trained, adapter, "누구?"),
    }


def test_a_runs_folder_will_do(trained: Trained, adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, str(adapter.parent), "--prompt", "who?")
    assert (code, out.strip()) == (0, expected(trained, adapter, "who?"))


def test_an_adapter_in_a_bucket(
    trained: Trained,
    adapter: Path,
    capsys: pytest.CaptureFixture[str],
    bucket_server: BucketServer,  # noqa: F811  (the fixture)
) -> None:
    code, out, err = run(capsys, bucket_server.uri("final_model"), "--prompt", "who?")
    assert (code, out) == (74, "")
    assert "nothing is there" in err
    write_receipt(adapter, adapter, str(trained.base))
    for path in adapter.iterdir():
        bucket_server.put(f"final_model/{path.name}", path.read_bytes())
    code, out, err = run(capsys, bucket_server.uri("final_model"), "--prompt", "who?")
    assert (code, out.strip(), err) == (0, expected(trained, adapter, "who?"), "")
    bucket_server.put("final_model/adapter_model.safetensors", b"damaged")
    code, out, err = run(capsys, bucket_server.uri("final_model"), "--prompt", "who?")
    assert (code, out) == (74, "")
    assert "adapter_model.safetensors" in err


def rename_base(adapter: Path, name: str, revision: str | None = None) -> None:
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": name, "revision": revision}
    path.write_text(json.dumps(config))


def write_receipt(adapter: Path, place: Path, source: str) -> None:
    receipt = build(
        adapter,
        run_id="01K",
        name="tiny",
        base={"source": source},
        data={},
        metrics={},
        seed=0,
        config_hash="",
        steps=1,
        tokens=1,
    )
    (place / "receipt.json").write_bytes(receipt.to_json())


def test_a_base_of_ones_own(trained: Trained, adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A hub id in the adapter's config is not asked for when --base says where the base is."""
    rename_base(adapter, "meta-llama/Meta-Llama-3-8B", "0" * 40)
    code, out, _ = run(capsys, str(adapter), "--prompt", "who?", "--base", str(trained.base))
    assert (code, out.strip()) == (0, expected(trained, adapter, "who?"))


def test_a_base_that_is_not_on_this_machine(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rename_base(adapter, "/no/such/base")
    code, out, err = run(capsys, str(adapter), "--prompt", "who?")
    assert (code, out) == (78, "")
    assert "the folder /no/such/base, is not on this machine" in err
    assert "--base" in err


def test_the_receipt_knows_where_the_base_came_from(
    trained: Trained,
    adapter: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(trained.base.parent)
    rename_base(adapter, "/no/such/base")
    write_receipt(adapter, adapter, trained.base.name)
    code, out, err = run(capsys, str(adapter), "--prompt", "who?")
    assert (code, out.strip(), err) == (0, expected(trained, adapter, "who?"), "")


@pytest.mark.parametrize("beside", [False, True])
def test_a_file_that_differs_from_the_receipt_is_a_warning(
    trained: Trained, adapter: Path, capsys: pytest.CaptureFixture[str], beside: bool
) -> None:
    write_receipt(adapter, adapter.parent if beside else adapter, str(trained.base))
    (adapter / "README.md").write_text("changed")
    code, out, err = run(capsys, str(adapter), "--prompt", "who?")
    assert code == 0
    assert out.strip() == expected(trained, adapter, "who?")
    assert err.startswith("warning: ")
    assert "README.md: has 7 bytes, the receipt says" in err


def broken_config(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text("{")


def no_base_in_config(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def no_weights(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()


def no_config(adapter: Path) -> None:
    (adapter / "adapter_config.json").unlink()


def torn_weights(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def broken_tokenizer(adapter: Path) -> None:
    (adapter / "tokenizer.json").write_text("{")


def gone(adapter: Path) -> None:
    shutil.rmtree(adapter)


def a_file(adapter: Path) -> None:
    shutil.rmtree(adapter)
    adapter.write_text("x")


@pytest.mark.parametrize(
    ("damage", "code", "sentence"),
    [
        (broken_config, 78, "adapter_config.json: is not JSON"),
        (no_base_in_config, 78, "adapter_config.json: has no base_model_name_or_path"),
        (no_weights, 78, "adapter_model.safetensors is not there"),
        (no_config, 78, "adapter_config.json is not there"),
        (torn_weights, 74, "peft cannot load the adapter"),
        (broken_tokenizer, 78, "tokenizer"),
        (gone, 78, "adapter: is not there"),
        (a_file, 78, "is a file; name the folder"),
    ],
)
def test_what_is_no_adapter(
    adapter: Path, capsys: pytest.CaptureFixture[str], damage: Any, code: int, sentence: str
) -> None:
    damage(adapter)
    found, out, err = run(capsys, str(adapter), "--prompt", "who?")
    assert (found, out) == (code, "")
    assert sentence in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) <= 2


def test_another_base_does_not_fit(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wider = make_tiny_base(tmp_path / "wider", shape={"hidden_size": 128})
    code, _, err = run(capsys, str(adapter), "--prompt", "who?", "--base", str(wider))
    assert code == 74
    assert "size mismatch" in err
    assert "it is an adapter for another base" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--json"], "--json needs --prompt"),
        (["--prompt", " "], "--prompt: is empty"),
        (["--prompt", "x", "--temperature", "-1"], "temperature"),
    ],
)
def test_usage(
    adapter: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    code, out, err = run(capsys, str(adapter), *arguments)
    assert (code, out) == (2, "")
    assert sentence in err


def converse(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    adapter: Path,
    said: str,
    *arguments: str,
) -> tuple[list[str], str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    code, out, err = run(capsys, str(adapter), *arguments)
    assert code == 0
    return out.splitlines(), err


def test_turns_from_a_pipe(
    trained: Trained,
    adapter: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = expected(trained, adapter, "who?")
    capsys.readouterr()
    out, err = converse(capsys, monkeypatch, adapter, "who?\n\nwho?\n/reset\nwho?\n/what\n/exit\nwho?\n")
    [one, second, after_reset] = out
    assert one == after_reset == first
    assert second != first  # the first turn is part of what the second answer sees
    assert err.splitlines() == ["the turns are forgotten", "/what is no command; there are /reset and /exit"]


def test_a_system_message_is_seen_and_stays(
    adapter: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = converse(capsys, monkeypatch, adapter, "who?\n")
    told, _ = converse(capsys, monkeypatch, adapter, "who?\n/reset\nwho?\n", "--system", "Be brief.")
    assert told[0] == told[1] != plain[0]


def talk(trained: Trained, **changes: Any) -> Chat:
    from contextlib import nullcontext

    tokenizer = AutoTokenizer.from_pretrained(trained.base)
    arguments: dict[str, Any] = {"disabled": nullcontext, "max_new_tokens": 8}
    return Chat(plain_base(trained.base), tokenizer, **(arguments | changes))


def test_an_answer_that_was_stopped_is_remembered_as_far_as_it_came(trained: Trained) -> None:
    chat = talk(trained)
    answer = chat.ask("who?")
    begun = next(answer) + next(answer)
    answer.close()
    assert chat.history == [
        {"role": "user", "content": "who?"},
        {"role": "assistant", "content": begun.strip()},
    ]


def test_the_bases_answer_is_not_remembered(trained: Trained) -> None:
    chat = talk(trained)
    assert "".join(chat.ask("who?", base=True))
    assert chat.history == []


def test_temperature_varies_answers_by_seed(trained: Trained) -> None:
    said = [
        "".join(talk(trained, temperature=2.0, generator=torch.Generator().manual_seed(seed)).ask("who?"))
        for seed in (1, 1, 2)
    ]
    assert said[0] == said[1] != said[2]


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.master, worker = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "packtrain.cli.main", *arguments],
            stdin=worker,
            stdout=worker,
            stderr=worker,
            start_new_session=True,
        )
        os.close(worker)
        self.unread = b""

    def read_until(self, wanted: str, seconds: float = 60) -> str:
        """What it shows, up to and with ``wanted``."""
        end = time.monotonic() + seconds
        while wanted.encode() not in self.unread:
            assert time.monotonic() < end, self.unread.decode(errors="replace")
            if select.select([self.master], [], [], 0.2)[0]:
                self.unread += os.read(self.master, 4096)
        seen, _, self.unread = self.unread.partition(wanted.encode())
        return seen.decode(errors="replace") + wanted

    def interrupt_until(self, wanted: str) -> None:
        """Ctrl-C as a person presses it: again, where it came at an instant in which nobody listened."""
        for _ in range(30):
            self.process.send_signal(signal.SIGINT)
            end = time.monotonic() + 2
            while time.monotonic() < end:
                if select.select([self.master], [], [], 0.1)[0]:
                    self.unread += os.read(self.master, 4096)
                if wanted.encode() in self.unread:
                    self.read_until(wanted)
                    return
        raise AssertionError(self.unread.decode(errors="replace"))

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.mark.slow
def test_on_a_terminal_ctrl_c_stops_an_answer_and_ctrl_d_ends(adapter: Path) -> None:
    terminal = Terminal("chat", str(adapter), "--max-new-tokens", "20000")
    try:
        terminal.read_until("Ctrl-C stops an answer\r\n> ")
        terminal.type("who?\n")
        terminal.read_until("who?\r\n")
        assert select.select([terminal.master], [], [], 30)[0]  # the answer has begun
        terminal.interrupt_until("[stopped]\r\n> ")
        terminal.interrupt_until("\r\n> ")
        terminal.type("\x04")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.close()
