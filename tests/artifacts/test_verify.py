"""The reload check: what is right passes, and each kind of damage, made for real, is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_base
from trained import Trained, plain_base, trained_on

from packtrain.artifacts.verify import ReloadReport, reload_check
from packtrain.errors import BugError, DivergedError, GateError, PacktrainError, StorageError

Tensors = dict[str, torch.Tensor]
A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
B = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"


@pytest.fixture
def folder(trained: Trained, tmp_path: Path) -> Path:
    trained.write(tmp_path / "adapter")
    return tmp_path / "adapter"


def check(trained: Trained, folder: Path, **changes: object) -> ReloadReport:
    arguments: dict[str, object] = {
        "base": plain_base(trained.base),
        "tensors": trained.tensors,
        "sample_ids": trained.sample,
        "expected_logits": trained.logits,
    }
    return reload_check(folder, **(arguments | changes))  # type: ignore[arg-type]


def test_a_good_adapter_passes(trained: Trained, folder: Path) -> None:
    report = check(trained, folder)
    assert report.tensors == len(trained.tensors) == 28
    assert report.positions == 16
    assert report.logit_error < 1e-5 < report.tolerance


@pytest.mark.parametrize("kind", ["llama3", "qwen3", "mistral", "gemma", "phi3"])
def test_other_bases(tmp_path: Path, kind: str) -> None:
    trained = trained_on(make_tiny_base(tmp_path / "base", kind, tied=True))
    trained.write(tmp_path / "adapter")
    assert check(trained, tmp_path / "adapter").logit_error < 1e-5


def test_a_base_in_bfloat16(base: Path, tmp_path: Path) -> None:
    trained = trained_on(base, torch.bfloat16)
    trained.write(tmp_path / "adapter")
    report = check(trained, tmp_path / "adapter", base=plain_base(base, torch.bfloat16))
    assert report.logit_error < report.tolerance


def test_half_precision_does_not_hide_a_wrong_scale(base: Path, tmp_path: Path) -> None:
    trained = trained_on(base, torch.bfloat16)
    trained.write(tmp_path / "adapter", lora=trained.lora | {"lora_alpha": 16})
    with pytest.raises(BugError, match="computes something else"):
        check(trained, tmp_path / "adapter", base=plain_base(base, torch.bfloat16))


def test_the_base_is_left_as_it_was(trained: Trained, folder: Path) -> None:
    base = plain_base(trained.base)
    with torch.inference_mode():
        before = base(input_ids=trained.sample[None]).logits
    names = set(base.state_dict())
    check(trained, folder, base=base)
    assert set(base.state_dict()) == names
    with torch.inference_mode():
        assert torch.equal(base(input_ids=trained.sample[None]).logits, before)
    check(trained, folder, base=base)


def test_the_base_is_left_as_it_was_by_a_failing_check(trained: Trained, folder: Path) -> None:
    base = plain_base(trained.base)
    names = set(base.state_dict())
    with pytest.raises(BugError):
        check(trained, folder, base=base, expected_logits=trained.logits + 1.0)
    assert set(base.state_dict()) == names


def missing(tensors: Tensors) -> None:
    del tensors[A]


def extra(tensors: Tensors) -> None:
    tensors[A.replace("layers.0", "layers.9")] = tensors[A].clone()


def one_bit(tensors: Tensors) -> None:
    tensors[A].view(torch.int32)[0, 0] ^= 1


def nan(tensors: Tensors) -> None:
    tensors[A][1, 1] = torch.nan


def infinite(tensors: Tensors) -> None:
    tensors[B][0, 0] = torch.inf


def zero(tensors: Tensors) -> None:
    tensors[B].zero_()


def shape(tensors: Tensors) -> None:
    tensors[A] = tensors[A][:, :-1].contiguous()


def rounded(tensors: Tensors) -> None:
    for name in tensors:
        tensors[name] = tensors[name].half()


def swapped(tensors: Tensors) -> None:
    other = A.replace("layers.0", "layers.1")
    tensors[A], tensors[other] = tensors[other], tensors[A]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (missing, f"{A} is missing"),
        (extra, "layers.9.self_attn.q_proj.lora_A.weight, which was not trained"),
        (one_bit, f"{A} differs from what was trained"),
        (nan, f"{A} differs from what was trained"),
        (infinite, f"{B} differs from what was trained"),
        (zero, f"{B} differs from what was trained"),
        (shape, f"{A} has shape [4, 63], trained was [4, 64]"),
        (rounded, "differs from what was trained"),
        (swapped, "q_proj.lora_A.weight differs from what was trained"),
    ],
)
def test_a_damaged_file(
    trained: Trained, folder: Path, damage: Callable[[Tensors], None], sentence: str
) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    damage(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(StorageError) as caught:
        check(trained, folder)
    assert str(caught.value).startswith(str(path))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_torn_file(trained: Trained, folder: Path, keep: int) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StorageError, match=r"adapter_model\.safetensors: cannot be read"):
        check(trained, folder)


def test_no_file(trained: Trained, folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(StorageError, match=r"adapter_model\.safetensors: cannot be read"):
        check(trained, folder)


def broken(trained: Trained, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    return trained.tensors | {name: change(trained.tensors[name].clone())}


@pytest.mark.parametrize(
    ("name", "change", "error", "sentence"),
    [
        (A, lambda t: t.fill_(torch.nan), DivergedError, f"NaN or infinity in {A}"),
        (B, lambda t: t.index_fill_(0, torch.tensor([3]), -torch.inf), DivergedError, f"infinity in {B}"),
        (B, lambda t: t.zero_(), GateError, f"{B} is all zero"),
    ],
)
def test_a_training_that_went_wrong(
    trained: Trained,
    tmp_path: Path,
    name: str,
    change: Callable[[torch.Tensor], torch.Tensor],
    error: type[PacktrainError],
    sentence: str,
) -> None:
    tensors = broken(trained, name, change)
    trained.write(tmp_path / "adapter", tensors=tensors)
    with pytest.raises(error) as caught:
        check(trained, tmp_path / "adapter", tensors=tensors)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("lora_alpha", 9), ("use_rslora", True), ("r", 8), ("target_modules", ["q_proj"])],
)
def test_a_config_that_says_something_else(trained: Trained, folder: Path, key: str, value: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises((BugError, StorageError)) as caught:
        check(trained, folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_config(trained: Trained, folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(StorageError, match="adapter: peft cannot load the adapter"):
        check(trained, folder)


def test_another_base(trained: Trained, folder: Path, tmp_path: Path) -> None:
    other = make_tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(BugError, match="computes something else than in training"):
        check(trained, folder, base=plain_base(other))


def test_logits_of_the_base_alone_do_not_pass(trained: Trained, folder: Path) -> None:
    with torch.inference_mode():
        logits = plain_base(trained.base)(input_ids=trained.sample[None]).logits[0, -16:]
    with pytest.raises(BugError, match="computes something else"):
        check(trained, folder, expected_logits=logits)


def test_one_wrong_position_is_seen(trained: Trained, folder: Path) -> None:
    logits = trained.logits.clone()
    logits[7] *= 1.01
    with pytest.raises(BugError, match=r"differ by 0\.0099 of their size"):
        check(trained, folder, expected_logits=logits)


def test_nan_logits(trained: Trained, folder: Path) -> None:
    with pytest.raises(DivergedError, match="logits on a sample"):
        check(trained, folder, expected_logits=torch.full_like(trained.logits, torch.nan))
