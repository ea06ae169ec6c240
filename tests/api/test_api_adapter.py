"""An adapter in Python: found, verified, on its base, and what it answers."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import peft
import pytest
from standins.bucket import BucketServer
from tiny import make_tiny_base
from trained import Trained, plain_base, trained_on
from transformers import AutoTokenizer

import packtrain
from packtrain.artifacts.receipt import build
from packtrain.errors import ConfigError, DataError, StorageError
from packtrain.evaluate.generate import generate


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained_on(make_tiny_base(tmp_path_factory.mktemp("base")))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may ask the hub, whatever it says of a base."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def folder(trained: Trained, tmp_path: Path) -> Path:
    """Of an adapter with its receipt."""
    folder = tmp_path / "adapter"
    trained.write(folder)
    receipt = build(
        folder,
        run_id="01KATEST000000000000000000",
        name="tiny",
        base={"source": str(trained.base), "identity": str(trained.base), "revision": None},
        data={},
        metrics={},
        seed=1,
        config_hash="0" * 64,
        steps=1,
        tokens=1,
    )
    (folder / "receipt.json").write_bytes(receipt.to_json())
    return folder


@pytest.fixture
def adapter(folder: Path) -> packtrain.Adapter:
    return packtrain.Adapter.load(folder, progress=False)


def expected(trained: Trained, folder: Path, prompt: str, *, base: bool = False) -> str:
    model = plain_base(trained.base)
    if not base:
        model = peft.PeftModel.from_pretrained(model, str(folder)).eval()
    return generate(model, AutoTokenizer.from_pretrained(folder), [prompt], max_new_tokens=12)[0]


def test_an_adapter_answers_as_plain_peft_does(
    trained: Trained, folder: Path, adapter: packtrain.Adapter
) -> None:
    assert isinstance(adapter.model, peft.PeftModel)
    assert adapter.folder == folder
    assert adapter.receipt is not None and adapter.receipt.name == "tiny"
    assert "01KATEST000000000000000000" in repr(adapter)
    for base in (False, True, False):  # the adapter comes back
        assert adapter.chat("What?", max_new_tokens=12, base=base) == expected(
            trained, folder, "What?", base=base
        )


def test_messages_are_turns(adapter: packtrain.Adapter) -> None:
    turn = {"role": "user", "content": "What?"}
    one = adapter.chat([turn], max_new_tokens=12)
    assert one == adapter.chat("What?", max_new_tokens=12)
    longer = [{"role": "system", "content": "Short."}, turn, {"role": "assistant", "content": one}, turn]
    assert adapter.chat(longer, max_new_tokens=12) != one


def test_pieces_make_the_answer_and_may_be_left(trained: Trained, adapter: packtrain.Adapter) -> None:
    whole = adapter.chat("What?", max_new_tokens=12, base=True)
    answer: Iterator[str] = adapter.stream("What?", max_new_tokens=12, base=True)
    assert "".join(answer).strip() == whole
    some = adapter.stream("What?", max_new_tokens=12, base=True)
    begun = next(some)
    # In the middle of it the adapter answers as the adapter, and then it goes on.
    assert adapter.chat("What?", max_new_tokens=12) == expected(trained, adapter.folder, "What?")
    assert (begun + "".join(some)).strip() == whole


def test_several_prompts_are_answered_as_each_alone(adapter: packtrain.Adapter) -> None:
    prompts = ["What?", "And a longer one than that, what about it?", "x"]
    alone = [adapter.chat(each, max_new_tokens=12) for each in prompts]
    assert adapter.generate(prompts, max_new_tokens=12, batch=2) == alone
    assert adapter.generate([], max_new_tokens=12) == []
    of_base = adapter.generate(prompts[:1], max_new_tokens=12, base=True)
    assert of_base == [adapter.chat(prompts[0], max_new_tokens=12, base=True)]


def test_a_seed_draws_the_same_answer(adapter: packtrain.Adapter) -> None:
    def drawn(seed: int) -> str:
        return adapter.chat("What?", max_new_tokens=24, temperature=2.0, seed=seed)

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize(
    "messages",
    [[], [{"content": "no role"}], [{"role": "user"}], ["text"], 3, [{"role": "user", "content": None}]],
)
def test_what_is_no_conversation_is_refused(adapter: packtrain.Adapter, messages: object) -> None:
    with pytest.raises(DataError):
        adapter.chat(messages, max_new_tokens=2)  # type: ignore[arg-type]


def test_a_single_text_is_no_list_of_prompts(adapter: packtrain.Adapter) -> None:
    with pytest.raises(DataError, match="takes a list of prompts"):
        adapter.generate("What?")


def test_a_changed_file_is_refused_unless_one_says_so(folder: Path) -> None:
    (folder / "README.md").write_text("changed")
    with pytest.raises(StorageError, match=r"README\.md: has 7 bytes") as raised:
        packtrain.Adapter.load(folder, progress=False)
    assert any("verify=False" in note for note in raised.value.__notes__)
    assert packtrain.Adapter.load(folder, verify=False, progress=False).receipt is not None


@pytest.mark.parametrize("place", ["not-there", "empty"])
def test_what_is_no_adapter_is_refused_before_anything_is_loaded(place: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=place):
        packtrain.Adapter.load(tmp_path / place, progress=False)


def test_an_adapter_in_a_bucket_is_there_as_long_as_it_is_used(
    folder: Path, adapter: packtrain.Adapter, bucket_server: BucketServer
) -> None:
    for path in folder.iterdir():
        bucket_server.put(f"final_model/{path.name}", path.read_bytes())
    fetched = packtrain.Adapter.load(bucket_server.uri("final_model"), progress=False)
    assert fetched.folder != folder
    assert fetched.chat("What?", max_new_tokens=12) == adapter.chat("What?", max_new_tokens=12)
    place = fetched.folder
    assert place.is_dir()
    del fetched
    gc.collect()
    assert not place.exists()
