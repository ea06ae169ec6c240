"""Axolotl: the YAML of ``axolotl train``. Defaults are those of its schemas."""

from __future__ import annotations

from typing import Any

from packtrain.runfile.elsewhere import common, transformers
from packtrain.runfile.elsewhere.carried import Carried
from packtrain.runfile.elsewhere.layouts import ROLES, Layout, columns, talk
from packtrain.runfile.elsewhere.mixture import Found, first_rows, leave_first_rows, put_sources
from packtrain.runfile.elsewhere.source import Source, shown

LEFT = transformers.LEFT | {
    "model_type": "a causal language model is trained, of the class that its config names",
    "tokenizer_type": "the base's own fast tokenizer is used",
    "tokenizer_config": "the base's own fast tokenizer is used",
    "special_tokens": common.TOKENS,
    "tokens": common.TOKENS,
    "added_tokens_overrides": common.TOKENS,
    "eot_tokens": common.TOKENS,
    "cosine_min_lr_ratio": "the schedule falls to 0",
    "early_stopping_patience": "a run ends after train.epochs or train.max_steps, not sooner",
    "unfrozen_parameters": "full fine-tuning trains every weight; adapter.layers chooses layers",
    "chat_template*": common.TEMPLATE,
    "dataset_prepared_path": common.LOADING,
    "dataset_processes": common.LOADING,
    "shuffle_merged_datasets": "rows are shuffled by train.seed",
    "dataset_exact_deduplication": "duplicates are reported, and stay",
    "eval_sample_packing": "validation is packed as training is",
    "sample_packing_*": "packing is best fit first, and the order follows from the seed",
    "pad_to_sequence_len": "nothing is ever padded",
    "train_on_inputs": common.ONLY_ANSWERS,
    "wandb*": common.LOGGING,
    "use_wandb": common.LOGGING,
    "mlflow*": common.LOGGING,
    "use_otel_metrics": common.LOGGING,
    "otel_*": common.LOGGING,
    "eval_table_size": common.LOGGING,
    "flash_attention": common.KERNELS,
    "flash_attn_*": common.KERNELS,
    "sdp_attention": common.KERNELS,
    "xformers_attention": common.KERNELS,
    "liger_*": common.KERNELS,
    "lora_qkv_kernel": common.KERNELS,
    "lora_o_kernel": common.KERNELS,
    "lora_mlp_kernel": common.KERNELS,
    "plugins": "there are no plugins; what they change is listed by its own key",
    "use_ray": common.SHARDING,
    "strict": "a run file is checked strictly, always",
    "loss_watchdog_*": "a loss that is not finite ends the run",
    "eval_batch_size": "how validation is batched does not change the result",
    "saves_per_epoch": "checkpoints are a duration or steps apart; 5 minutes were taken",
    "lora_model_dir": "a run begins with a new adapter",
    "qat": "there is no training for quantisation",
    "fp8*": "there is no training in 8 bits",
}
_NO_SETTING = "there is no such setting of a source; check the rows with packtrain data"
_WORDING = "rows become turns of the tokenizer's chat template"
_LAYOUTS = {"alpaca": "alpaca", "alpaca_chat": "alpaca", "sharegpt": "sharegpt", "completion": "text"}
_OF_A_SET = {"path", "type", "split", "name", "data_files", "ds_type", "shards", "shards_idx"}
#: Keys of a data set of conversations.
_OF_A_TALK = {
    "field_messages", "field_system", "field_tools", "field_thinking", "message_property_mappings",
    "message_field_role", "message_field_content", "message_field_training", "roles",
}  # fmt: skip
_OF_A_TURN = {"role", "content", "reasoning_content", "tool_calls"}
_OF_A_TYPE = {"field_instruction", "field_input", "field_output", "field_system", "system_prompt"}


def translate(source: Source, devices: int | None) -> Carried:
    carried = Carried()
    carried.put("model.source", source.text("base_model"), origin="base_model")
    carried.put("model.revision", source.text("revision_of_model"), origin="revision_of_model")
    if source.flag("trust_remote_code"):
        carried.put("model.trust_remote_code", True, origin="trust_remote_code")
    _data(carried, source)
    _adapter(carried, source)
    length, packing = source.whole("sequence_len", 512) or 512, source.flag("sample_packing")
    carried.put("data.max_length", length, origin="sequence_len")
    carried.put("data.packing", packing, origin="sample_packing")
    rows = source.count("micro_batch_size", 1)
    accumulation = source.count("gradient_accumulation_steps", _accumulation(source, rows))
    common.put_batch(carried, rows, accumulation, devices, length, packing)
    _train(carried, source)
    carried.leave_rest(source, LEFT)
    return carried


def _accumulation(source: Source, rows: int) -> int:
    """From ``batch_size``, the rows of a step on one device, which older files name instead."""
    total = source.whole("batch_size")
    return max(1, total // rows) if total else 1


def _train(carried: Carried, source: Source) -> None:
    epochs = source.number("num_epochs", 1.0) or 1.0
    carried.put("train.epochs", epochs, origin="num_epochs")
    if (steps := source.whole("max_steps")) is not None and steps > 0:
        carried.put("train.max_steps", steps, origin="max_steps")
        carried.put("train.epochs", 10_000, "max_steps decides")
    rate = source.number("learning_rate")
    if rate is None:
        raise source.wrong("learning_rate", "is not there, and Axolotl has no default for it")
    carried.put("train.learning_rate", rate, origin="learning_rate")
    schedule = common.put_schedule(carried, source, "lr_scheduler", "cosine")
    common.put_warmup(carried, source, schedule, 0.03)  # Axolotl's own where nothing is said
    carried.put("train.weight_decay", source.number("weight_decay", 0.0), origin="weight_decay")
    carried.put("train.beta1", source.number("adam_beta1"), origin="adam_beta1")
    carried.put("train.beta2", source.number("adam_beta2"), origin="adam_beta2")
    transformers.put_clip(carried, source)
    carried.put("train.seed", source.whole("seed", 42), origin="seed")
    checkpointing = source.take("gradient_checkpointing")
    if isinstance(checkpointing, bool):
        carried.put("train.activation_checkpointing", checkpointing, origin="gradient_checkpointing")
    elif checkpointing is not None:
        carried.put("train.activation_checkpointing", True, origin="gradient_checkpointing")
    common.put_optimizer(carried, source, "optimizer")
    transformers.put_checkpoints(carried, source)
    if per_epoch := source.number("evals_per_epoch"):
        share = min(1.0, round(1 / (per_epoch * epochs), 4))
        carried.put("evaluate.every", share, f"{per_epoch:g} in each of {epochs:g} epochs", "evals_per_epoch")
    common.put_output(carried, source, "output_dir", source.text("output_dir"))


def _data(carried: Carried, source: Source) -> None:
    sets = source.take("datasets")
    if not isinstance(sets, list) or not all(isinstance(each, dict) and each.get("path") for each in sets):
        raise source.wrong("datasets", "must be a list of data sets, each with a path")
    found = []
    for index, each in enumerate(sets):
        place, layout = _one(carried, each, index)
        weight = _share(carried, each, index)
        found.append(Found(place, layout, first_rows(each.get("split")), weight))
    put_sources(carried, found, "datasets")
    if (system := source.text("default_system_message")) and any(
        each.layout.format == "text" for each in found
    ):
        carried.leave("default_system_message", "rows of texts are no conversations, which it could begin")
    elif system:
        carried.put("data.system", system, origin="default_system_message")
    tests = source.take("test_datasets")
    if (
        isinstance(tests, list)
        and tests
        and all(isinstance(each, dict) and each.get("path") for each in tests)
    ):
        places = [_one(carried, each, index)[0] for index, each in enumerate(tests)]
        for index, each in enumerate(tests):
            leave_first_rows(carried, f"test_datasets[{index}].split", each.get("split"))
        carried.put("data.validation", common.one_or_list(places), origin="test_datasets")
        source.take("val_set_size")
    else:
        common.put_validation(carried, source, "val_set_size")


def _share(carried: Carried, entry: dict[str, Any], index: int) -> float:
    """The weight of a data set of which one in so many ``shards`` is trained on."""
    shards = entry.get("shards")
    if isinstance(shards, bool) or not isinstance(shards, int) or shards <= 1:
        return 1.0
    carried.leave(
        f"datasets[{index}].shards: {shards}, one of which is trained on",
        "each epoch sees as many of the rows (its weight), and other ones in the next",
    )
    return round(1 / shards, 4)


def _one(carried: Carried, entry: dict[str, Any], index: int) -> tuple[str, Layout]:
    layout, understood = _layout(carried, entry, f"datasets[{index}]")
    _leave(carried, entry, _OF_A_SET | understood, f"datasets[{index}]")
    split = common.whole_split(carried, f"datasets[{index}].split", entry.get("split"))
    files = entry.get("data_files")
    if isinstance(files, str):
        files = [files]
    if isinstance(files, list) and len(files) == 1 and entry["path"] in {"json", "csv", "parquet"}:
        return str(files[0]), layout
    if files:
        carried.leave(
            f"datasets[{index}].data_files: {shown('', files)}", "name the files themselves in data.train"
        )
    if (
        str(entry["path"]).startswith(("./", "../", "/", "gs://"))
        or "." in str(entry["path"]).rpartition("/")[2]
    ):
        return str(entry["path"]), layout
    return common.hub_source(str(entry["path"]), entry.get("name"), split), layout


def _layout(carried: Carried, entry: dict[str, Any], where: str) -> tuple[Layout, set[str]]:
    """The layout, and the keys of the data set that it comes from."""
    kind = entry.get("type")
    if isinstance(kind, dict):
        _leave(carried, kind, _OF_A_TYPE, f"{where}.type", _WORDING)
        named = columns(
            instruction=_name(kind, "field_instruction"), input=_name(kind, "field_input"),
            output=_name(kind, "field_output"), system=_name(kind, "field_system"),
        )  # fmt: skip
        return Layout("alpaca", named, system=_name(kind, "system_prompt")), set()
    name = str(kind).partition(".")[0]
    layout = _LAYOUTS.get(str(kind)) or _LAYOUTS.get(name)
    if name == "chat_template":
        return _talk(carried, entry, where), _OF_A_TALK
    if layout == "sharegpt":
        return _talk(carried, {"field_messages": "conversations"} | entry, where), _OF_A_TALK
    if layout == "text":
        return Layout("text", columns(text=_name(entry, "field"))), {"field"}
    if layout == "alpaca":
        carried.leave("Alpaca's own wording around a row", _WORDING)
    elif kind is not None:
        carried.leave(f"{where}.type: {shown('', kind)}", "data.format: auto looks at the columns instead")
    return Layout(layout), set()


def _talk(carried: Carried, entry: dict[str, Any], where: str) -> Layout:
    keys, roles = (
        value if isinstance(value := entry.get(key), dict) else {}
        for key in ("message_property_mappings", "roles")
    )
    _leave(carried, keys, _OF_A_TURN, f"{where}.message_property_mappings")
    _leave(carried, roles, set(ROLES), f"{where}.roles")
    said = {
        ours: [str(name) for name in (roles[ours] if isinstance(roles[ours], list) else [roles[ours]])]
        for ours in ROLES
        if roles.get(ours)
    }
    return talk(
        _name(entry, "field_messages") or "messages",
        role=_name(keys, "role") or _name(entry, "message_field_role"),
        content=_name(keys, "content") or _name(entry, "message_field_content"),
        roles=said,
        system=_name(entry, "field_system"),
        tools=_name(entry, "field_tools"),
        reasoning_content=_name(entry, "field_thinking") or _name(keys, "reasoning_content"),
        tool_calls=_name(keys, "tool_calls"),
        train=_name(entry, "message_field_training"),
    )


def _leave(carried: Carried, entry: dict[str, Any], understood: set[str], where: str, why: str = "") -> None:
    """List the keys of ``entry`` that are not understood and say something."""
    for key in sorted(entry.keys() - understood, key=str):
        if entry[key] not in (None, [], {}):
            carried.leave(f"{where}.{key}: {shown(str(key), entry[key])}", why or _NO_SETTING)


def _name(entry: dict[str, Any], key: str) -> str | None:
    value = entry.get(key)
    return value if isinstance(value, str) and value.strip() else None


def _adapter(carried: Carried, source: Source) -> None:
    kind, four = source.text("adapter"), source.flag("load_in_4bit")
    if source.flag("load_in_8bit"):
        carried.leave("load_in_8bit: true", common.QUANT8)
    rank, alpha = source.whole("lora_r", 8), source.number("lora_alpha", 8)
    dropout, names = source.number("lora_dropout", 0.0), source.names("lora_target_modules")
    every, saved = source.flag("lora_target_linear"), source.names("lora_modules_to_save")
    dora, rslora = source.flag("peft_use_dora"), source.flag("peft_use_rslora")
    layers, ratio = source.take("peft_layers_to_transform"), source.number("loraplus_lr_ratio")
    if kind is None:
        carried.put("adapter.kind", "none", "without `adapter` every weight is trained")
        return
    transformers.put_quantised(carried, source, four_bits=kind == "qlora" or four, dora=dora)
    carried.put("adapter.rank", rank, origin="lora_r")
    carried.put("adapter.alpha", alpha, origin="lora_alpha")
    carried.put("adapter.dropout", dropout, origin="lora_dropout")
    common.put_targets(
        carried, ["all-linear"] if every else names, "lora_target_linear" if every else "lora_target_modules"
    )
    carried.put("adapter.modules_to_save", saved, origin="lora_modules_to_save")
    carried.put("adapter.layers", layers, origin="peft_layers_to_transform")
    if rslora:
        carried.put("adapter.rslora", True, origin="peft_use_rslora")
    carried.put("adapter.loraplus_lr_ratio", ratio, origin="loraplus_lr_ratio")
