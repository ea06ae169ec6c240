"""init --from: configs of torchtune, Axolotl, LLaMA-Factory and TRL, and what becomes of each of their keys.

The configs are short excerpts of the examples that those projects ship: torchtune's recipes/configs/
llama3_1/8B_lora_single_device.yaml and llama3/8B_full.yaml, Axolotl's examples/llama-3/lora-8b.yml and
qlora.yml, LLaMA-Factory's examples/train_lora/*_lora_sft.yaml, TRL's examples/cli_configs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packtrain.config import RunConfig
from packtrain.errors import ConfigError
from packtrain.runfile.document import Document
from packtrain.runfile.elsewhere import Translated, translate

TORCHTUNE = """\
output_dir: /tmp/torchtune/llama3_1_8B/lora
model:
  _component_: torchtune.models.llama3_1.lora_llama3_1_8b
  lora_attn_modules: ['q_proj', 'v_proj', 'output_proj']
  apply_lora_to_mlp: True
  apply_lora_to_output: False
  lora_rank: 8
  lora_alpha: 16
tokenizer:
  _component_: torchtune.models.llama3.llama3_tokenizer
  max_seq_len: 4096
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: /tmp/Meta-Llama-3.1-8B-Instruct/
  output_dir: ${output_dir}
dataset:
  _component_: torchtune.datasets.alpaca_cleaned_dataset
  packed: True
seed: null
batch_size: 2
optimizer:
  _component_: torch.optim.AdamW
  lr: 3e-4
lr_scheduler:
  _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup
  num_warmup_steps: 100
loss:
  _component_: torchtune.modules.loss.LinearCrossEntropyLoss
epochs: 2
max_steps_per_epoch: 50
gradient_accumulation_steps: 8
clip_grad_norm: null
dtype: bf16
a_new_key: 7
"""
AXOLOTL = """\
base_model: NousResearch/Meta-Llama-3-8B
load_in_8bit: true
datasets:
  - path: mhenrichsen/alpaca_2k_test
    type: alpaca
val_set_size: 0.05
output_dir: ./outputs/lora-out
sequence_len: 4096
sample_packing: true
adapter: lora
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
lora_modules_to_save:
  - embed_tokens
  - lm_head
wandb_project:
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 0.0002
gradient_checkpointing: true
warmup_ratio: 0.1
evals_per_epoch: 4
weight_decay: 0.0
special_tokens:
  pad_token: <|end_of_text|>
train_on_inputs: true
"""
LLAMA_FACTORY = """\
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 2048
max_samples: 1000
output_dir: saves/llama3-8b/lora/sft
save_steps: 500
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
"""
TRL = """\
model_name_or_path: Qwen/Qwen2.5-0.5B
dataset_name: trl-lib/Capybara
learning_rate: 2e-4
use_peft: true
lora_target_modules: all-linear
load_in_4bit: true
packing: true
max_length: 2048
warmup_steps: 20
eval_strategy: steps
eval_steps: 200
hub_token: hf_notshown
"""
ALL = {"torchtune": TORCHTUNE, "Axolotl": AXOLOTL, "LLaMA-Factory": LLAMA_FACTORY, "TRL": TRL}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(text: str, devices: int = 1) -> tuple[RunConfig, Translated]:
    path = Path("theirs.yml")
    path.write_text(text)
    translated = translate(path, devices)
    target = Path("ours.yaml")
    target.write_text(translated.text)
    return RunConfig.model_validate(Document.read(target).data), translated


def reasons(translated: Translated) -> dict[str, str]:
    return dict(translated.left)


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        made(text)
    assert caught.value.exit_code == 78
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_torchtune() -> None:
    config, translated = made(TORCHTUNE, devices=4)
    assert translated.kind == "torchtune"
    assert config.model.source == "meta-llama/Meta-Llama-3.1-8B-Instruct"
    assert (config.data.train, config.data.format, config.data.validation) == (
        "yahma/alpaca-cleaned",
        "alpaca",
        0,
    )
    assert config.train.batch_tokens == 2 * 8 * 4 * 4096
    assert (config.adapter.kind, config.adapter.rank, config.adapter.alpha) == ("lora", 8, 16)
    assert config.adapter.targets == ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert (config.train.learning_rate, config.train.weight_decay) == (3e-4, 0.01)
    assert (config.train.schedule, config.train.warmup) == ("cosine", 100)
    assert (config.train.epochs, config.train.max_steps, config.train.max_grad_norm) == (2, 100, 1e9)
    assert config.output.uri == "/tmp/torchtune/llama3_1_8B/lora"
    assert "the prompt is never in the loss" in reasons(translated)["dataset.train_on_input: true"]
    assert reasons(translated)["a_new_key: 7"] == "packtrain does not know this key"


def test_torchtunes_full_fine_tuning_with_a_slice_for_validation() -> None:
    text = TORCHTUNE.replace("lora_llama3_1_8b", "llama3_1_8b").replace(
        "  packed: True", "  packed: True\n  split: train[:95%]"
    )
    for key in ("lora_attn_modules", "apply_lora_to", "lora_rank", "lora_alpha"):
        text = "\n".join(line for line in text.splitlines() if not line.strip().startswith(key))
    held_out = (
        "\ndataset_val: {_component_: torchtune.datasets.alpaca_cleaned_dataset, split: 'train[95%:]'}\n"
    )
    config, _ = made(text + held_out)
    assert config.adapter.kind == "none"
    assert config.data.validation == 0.05


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("lora_llama3_1_8b:qlora_llama3_1_8b", "qlora"),
        ("  lora_rank: 8:  lora_rank: 8\n  quantize_base: True", "qlora"),
        ("  lora_rank: 8:  lora_rank: 8\n  use_dora: True", "dora"),
    ],
)
def test_torchtunes_kinds(change: str, kind: str) -> None:
    before, after = (
        ("lora_llama3_1_8b", "qlora_llama3_1_8b") if "qlora_" in change else ("  lora_rank: 8", change[15:])
    )
    config, _ = made(TORCHTUNE.replace(before, after))
    assert config.adapter.kind == kind


def test_axolotl() -> None:
    config, translated = made(AXOLOTL)
    assert config.model.source == "NousResearch/Meta-Llama-3-8B"
    assert (config.data.train, config.data.format) == ("mhenrichsen/alpaca_2k_test", "alpaca")
    assert (config.data.validation, config.data.max_length, config.data.packing) == (0.05, 4096, True)
    assert config.train.batch_tokens == 2 * 4 * 4096
    assert config.adapter.model_dump(include={"kind", "rank", "alpha", "dropout", "targets"}) == {
        "kind": "lora",
        "rank": 32,
        "alpha": 16,
        "dropout": 0.05,
        "targets": "all-linear",
    }
    assert config.adapter.modules_to_save == ["embed_tokens", "lm_head"]
    assert (config.train.epochs, config.train.warmup, config.evaluate.every) == (4, 0.1, 0.0625)
    left = reasons(translated)
    assert {"load_in_8bit: true", "optimizer: adamw_bnb_8bit", "train_on_inputs: true"} <= left.keys()
    assert not [what for what in left if what.startswith("wandb_project")]  # has no value


def test_axolotls_qlora_and_its_own_warm_up() -> None:
    text = AXOLOTL.replace("adapter: lora", "adapter: qlora").replace("warmup_ratio: 0.1\n", "")
    config, _ = made(text.replace("load_in_8bit", "load_in_4bit"))
    assert (config.adapter.kind, config.train.warmup) == ("qlora", 0.03)


def test_axolotls_conversations() -> None:
    text = AXOLOTL.replace(
        "    type: alpaca", "    type: chat_template\n    field_messages: conversations\n    split: test"
    )
    config, _ = made(text)
    assert (config.data.train, config.data.format) == ("mhenrichsen/alpaca_2k_test:test", "sharegpt")


def test_a_part_of_a_split_is_listed() -> None:
    config, translated = made(AXOLOTL.replace("    type: alpaca", "    type: alpaca\n    split: train[:10%]"))
    assert config.data.train == "mhenrichsen/alpaca_2k_test"
    assert "all of train was taken" in reasons(translated)["datasets[0].split: train[:10%]"]


def test_llama_factory_with_its_list_of_data_sets(here: Path) -> None:
    (here / "data").mkdir()
    sets = {
        "identity": {"file_name": "identity.json"},
        "alpaca_en_demo": {"hf_hub_url": "llamafactory/alpaca_en", "split": "test"},
    }
    (here / "data" / "dataset_info.json").write_text(json.dumps(sets))
    config, translated = made(LLAMA_FACTORY)
    assert [(item.source, item.limit, item.weight) for item in config.data.mixture] == [
        ("data/identity.json", 1000, 1.0),
        ("llamafactory/alpaca_en:test", 1000, 1.0),
    ]
    assert (config.data.format, config.data.validation) == ("alpaca", 0)
    assert config.train.batch_tokens == 8 * 2048
    assert (config.adapter.rank, config.adapter.alpha, config.adapter.targets) == (8, 16, "all-linear")
    assert (config.train.schedule, config.train.warmup, config.checkpoint.every) == ("cosine", 0.1, 500)
    left = reasons(translated)
    assert "template: llama3" in left
    assert "a batch of 8 rows" in left


def test_llama_factory_without_it_says_so() -> None:
    config, translated = made(LLAMA_FACTORY)
    assert [item.source for item in config.data.mixture] == ["data/identity.json", "data/alpaca_en_demo.json"]
    assert "data/dataset_info.json does not tell" in reasons(translated)["the data set identity"]


def test_trl() -> None:
    config, translated = made(TRL)
    assert (config.data.train, config.data.validation) == ("trl-lib/Capybara", "trl-lib/Capybara:test")
    assert config.adapter.model_dump(include={"kind", "rank", "alpha", "dropout", "targets"}) == {
        "kind": "qlora",
        "rank": 16,
        "alpha": 32,
        "dropout": 0.05,
        "targets": "all-linear",
    }
    assert config.train.batch_tokens == 8 * 2048
    assert (config.train.schedule, config.train.warmup, config.train.epochs) == ("linear", 20, 3)
    assert config.evaluate.every == 200
    assert "loss on the whole conversation" in reasons(translated)
    assert "hf_notshown" not in translated.text


def test_trl_without_peft_trains_every_weight() -> None:
    config, _ = made("model_name_or_path: a/b\ndataset_name: c/d\nlora_r: 4\n")
    assert (config.adapter.kind, config.train.learning_rate, config.data.max_length) == ("none", 2e-5, 1024)


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_no_key_is_dropped_silently(text: str) -> None:
    """A key that no table names is listed, at the top and inside of sections that are understood in part."""
    _, translated = made(f"{text}\nzz_unheard_of: {{deep: [1, 2]}}\n")
    assert 'zz_unheard_of: {"deep": [1, 2]}' in reasons(translated)
    assert "zz_unheard_of" in translated.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (AXOLOTL + "rl: dpo\n", "rl: this is a config of Axolotl for DPO"),
        (AXOLOTL + "pretraining_dataset: x/y\n", "for pre-training"),
        (AXOLOTL + "reward_model: true\n", "for a reward model"),
        (
            LLAMA_FACTORY.replace("stage: sft", "stage: dpo"),
            "theirs.yml:2: stage: this is a config of LLaMA-Factory",
        ),
        (LLAMA_FACTORY.replace("stage: sft", "stage: pt"), "for pre-training"),
        (LLAMA_FACTORY.replace("stage: sft", "stage: kto"), "for KTO"),
        (LLAMA_FACTORY.replace("finetuning_type: lora", "finetuning_type: oft"), "`oft` fine-tuning"),
        (TRL + "beta: 0.1\n", "for DPO, KTO, ORPO or GRPO"),
        (TRL + "loss_type: sigmoid\n", "for DPO"),
        (TORCHTUNE.replace("modules.loss.Linear", "rlhf.loss.DPOLoss"), "for DPO"),
        (TORCHTUNE.replace("alpaca_cleaned", "preference"), "for preferences"),
        (TORCHTUNE.replace("optimizer:", "optimiser:"), "something else than training"),
    ],
)
def test_what_is_no_supervised_fine_tuning_is_refused(text: str, said: str) -> None:
    message = refused(text)
    assert said in message
    assert message.endswith("packtrain does supervised fine-tuning of language models alone")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\n", "theirs.yml: is not a config of torchtune, Axolotl, LLaMA-Factory or TRL"),
        ("name: x\nmodel: {source: a/b}\n", "is a packtrain run file already"),
        (AXOLOTL + "stage: sft\n", "could be a config of Axolotl or of LLaMA-Factory"),
        ("- 1\n", "theirs.yml:1: is a list"),
        ("", "theirs.yml:1: is empty"),
        ("a: [1\nb: 2\n", "theirs.yml:2:"),
        (AXOLOTL + "lora_r: 8\n", "theirs.yml:32:1: lora_r: stands twice (first in line 11)"),
        (
            AXOLOTL.replace("lora_r: 32", "lora_r: many"),
            "theirs.yml:11: lora_r: must be a number, and is many",
        ),
        (AXOLOTL.replace("lora_r: 32", "lora_r: 5000"), "theirs.yml:11: adapter.rank: must be at most 1024"),
        (AXOLOTL.replace("lora_r: 32", "lora_r: 'inf'"), "theirs.yml:11: lora_r: must be a number"),
        (AXOLOTL.replace("batch_size: 2", "batch_size: -2"), "micro_batch_size: must be at least 1"),
        (AXOLOTL.replace("lora_r: 32", "lora_r: 1.5"), "lora_r: must be a whole number"),
        (
            AXOLOTL.replace("sample_packing: true", "sample_packing: [1]"),
            "sample_packing: must be true or false",
        ),
        (AXOLOTL.replace("learning_rate: 0.0002\n", ""), "learning_rate: is not there"),
        (LLAMA_FACTORY.replace("dataset: identity,alpaca_en_demo\n", ""), "dataset: no data set is named"),
        (
            TORCHTUNE.replace("checkpoint_dir: /tmp/M", "checkpoint_dir: ${no.such}/M"),
            "names no text of this file",
        ),
    ],
)
def test_what_cannot_be_read_is_one_sentence(text: str, said: str) -> None:
    assert said in refused(text)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.yml", "none.yml: is not there"),
        (".", "is a folder, not a config"),
        ("empty.yml", ":1: is empty"),
    ],
)
def test_a_file_that_is_none_is_told_of_as_a_config(
    cli: Callable[..., Any], here: Path, name: str, said: str
) -> None:
    (here / "empty.yml").touch()
    ended = cli("init", "--from", name)
    assert ended.code == 78
    assert said in ended.err
    assert "run file" not in ended.err


def test_text_of_the_config_stays_in_its_comment() -> None:
    config, translated = made(AXOLOTL + '"evil\\nname: other": "x\\ntrain: {seed: 7}"\n')
    assert (config.name, config.train.seed) == ("theirs", 42)
    assert "evil name: other" in translated.text


def test_the_verb_writes_it_and_overwrites_nothing(cli: Callable[..., Any], here: Path) -> None:
    (here / "My Llama_8B.yml").write_text(AXOLOTL)
    ended = cli("init", "--from", "My Llama_8B.yml", "--devices", "2", "--json")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert (report["run_file"], report["from"]) == ("my-llama-8b.yaml", "Axolotl")
    assert {"what": "load_in_8bit: true"}.items() <= report["not_carried"][1].items()
    assert "batch_tokens: 65536  # 2 a device × 4 accumulated × 2" in (here / "my-llama-8b.yaml").read_text()
    assert cli("init", "--from", "My Llama_8B.yml").code == 73
    assert cli("init", "--from", "my-llama-8b.yaml", "--force").code == 78
    assert cli("init", "--from", "My Llama_8B.yml", "-o", "My Llama_8B.yml", "--force").code == 73
    assert cli("init", "quickstart", "--from", "My Llama_8B.yml").code == 2
    assert cli("init", "--devices", "2").code == 2
    assert cli("init", "--from", "nowhere.yml").code == 78
