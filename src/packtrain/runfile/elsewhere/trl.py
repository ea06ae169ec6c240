"""TRL: the YAML that ``trl sft --config`` takes. Defaults are those of its SFTConfig and ModelConfig."""

from __future__ import annotations

from typing import Any

from packtrain.runfile.elsewhere import common, transformers
from packtrain.runfile.elsewhere.carried import Carried
from packtrain.runfile.elsewhere.mixture import Found, first_rows, put_sources
from packtrain.runfile.elsewhere.source import Source, shown

LEFT = transformers.LEFT | {
    "eos_token": common.TOKENS,
    "pad_token": common.TOKENS,
    "pad_to_multiple_of": common.TOKENS,
    "dtype": "model.dtype: auto takes bfloat16 on a GPU that has it, float32 on CPU",
    "torch_dtype": "model.dtype: auto takes bfloat16 on a GPU that has it, float32 on CPU",
    "dataset_streaming": common.LOADING,
    "streaming": common.LOADING,
    "dataset_kwargs": common.LOADING,
    "shuffle_dataset": "rows are shuffled by train.seed",
    "packing_strategy": "rows share a sequence, best fit first, without seeing each other",
    "padding_free": "nothing is ever padded",
    "eval_packing": "validation is packed as training is",
    "loss_type": "the loss is plain cross-entropy",
    "truncation_mode": "what is too long is cut at its end (data.too_long)",
    "bnb_4bit_quant_type": "4 bits are NF4 with double quantisation",
    "use_bnb_nested_quant": "4 bits are NF4 with double quantisation",
    "bnb_4bit_quant_storage": "4 bits are NF4 with double quantisation",
    "lora_task_type": "a causal language model is trained",
    "env": "set environment variables where packtrain is started",
}


def translate(source: Source, devices: int | None) -> Carried:
    carried = Carried()
    carried.put("model.source", source.text("model_name_or_path"), origin="model_name_or_path")
    carried.put("model.revision", source.text("model_revision"), origin="model_revision")
    if source.flag("trust_remote_code"):
        carried.put("model.trust_remote_code", True, origin="trust_remote_code")
    template = source.text("chat_template_path")
    if template and template.endswith((".jinja", ".jinja2", ".j2")):
        carried.put("model.chat_template", template, origin="chat_template_path")
    elif template:
        carried.leave(f"chat_template_path: {shown('', template)}", common.TEMPLATE)
    _data(carried, source)
    _text_field(carried, source)
    _adapter(carried, source)
    length = source.whole("max_length") or source.whole("max_seq_length") or 1024
    packing = source.flag("packing")
    carried.put("data.max_length", length, origin="max_length")
    carried.put("data.packing", packing, origin="packing")
    rows = source.count("per_device_train_batch_size", 8)
    accumulation = source.count("gradient_accumulation_steps", 1)
    common.put_batch(carried, rows, accumulation, devices, length, packing)
    transformers.read(carried, source, learning_rate=2e-5)
    if not source.flag("assistant_only_loss") and not source.flag("completion_only_loss"):
        carried.leave("loss on the whole conversation", common.ONLY_ANSWERS)
    carried.leave_rest(source, LEFT)
    return carried


def _data(carried: Carried, source: Source) -> None:
    sets = source.take("datasets")
    if sets is None:
        sets = [
            {
                "path": source.text("dataset_name"),
                "name": source.text("dataset_config"),
                "split": source.text("dataset_train_split"),
            }
        ]
    if not isinstance(sets, list) or not all(isinstance(each, dict) and each.get("path") for each in sets):
        raise source.wrong("datasets", "must be a list of data sets, each with a path")
    found = [Found(_one(carried, each), limit=first_rows(each.get("split"))) for each in sets]
    put_sources(carried, found, "dataset_name")
    if source.has("test_split_size"):
        common.put_validation(carried, source, "test_split_size")
        return
    split = source.text("dataset_test_split", "test")
    if (source.text("eval_strategy") or "no") != "no" and len(sets) == 1 and split:
        known = sets[0]
        carried.put(
            "data.validation",
            common.hub_source(known["path"], known.get("name"), split),
            f"the split {split}",
        )
    else:
        carried.put("data.validation", 0, "none is evaluated there")


def _text_field(carried: Carried, source: Source) -> None:
    column = source.text("dataset_text_field")
    if column in {"messages", "conversations", "prompt", "completion"}:
        carried.leave(f"dataset_text_field: {column}", "such a column is a conversation's, not a text's")
    elif column not in {None, "text"}:
        carried.put("data.columns", {"text": column}, origin="dataset_text_field")


def _one(carried: Carried, entry: dict[str, Any]) -> str:
    for key in entry.keys() - {"path", "name", "split", "data_files"}:
        if entry[key] is not None:
            carried.leave(f"{key}: {shown(key, entry[key])}", "a data set is its name, config and split here")
    files = entry.get("data_files")
    if isinstance(files, str):
        return files if entry["path"] in {"json", "csv", "parquet"} else f"{entry['path']}/{files}"
    if files is not None:
        carried.leave(f"data_files: {shown('', files)}", "name the files themselves in data.train")
    return common.hub_source(
        str(entry["path"]), entry.get("name"), common.whole_split(carried, "split", entry.get("split"))
    )


def _adapter(carried: Carried, source: Source) -> None:
    four, dora = source.flag("load_in_4bit"), source.flag("use_dora")
    rank, alpha = source.whole("lora_r", 16), source.number("lora_alpha", 32)
    dropout, names = source.number("lora_dropout", 0.05), source.names("lora_target_modules")
    rslora, saved = source.flag("use_rslora"), source.names("lora_modules_to_save")
    if source.flag("load_in_8bit"):
        carried.leave("load_in_8bit: true", common.QUANT8)
    if not source.flag("use_peft"):
        carried.put("adapter.kind", "none", "without use_peft every weight is trained", "use_peft")
        return
    transformers.put_quantised(carried, source, four_bits=four, dora=dora)
    carried.put("adapter.rank", rank, origin="lora_r")
    carried.put("adapter.alpha", alpha, origin="lora_alpha")
    carried.put("adapter.dropout", dropout, origin="lora_dropout")
    if rslora:
        carried.put("adapter.rslora", True, origin="use_rslora")
    common.put_targets(carried, names, "lora_target_modules")
    carried.put("adapter.modules_to_save", saved, origin="lora_modules_to_save")
