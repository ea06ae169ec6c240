"""LLaMA-Factory: the YAML of ``llamafactory-cli train`` with ``stage: sft``, and its dataset_info.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packtrain.runfile.elsewhere import common, transformers
from packtrain.runfile.elsewhere.carried import Carried
from packtrain.runfile.elsewhere.layouts import Layout, columns, talk
from packtrain.runfile.elsewhere.mixture import (
    PROBABILITIES,
    Found,
    first_rows,
    leave_first_rows,
    put_sources,
)
from packtrain.runfile.elsewhere.source import Source

LEFT = transformers.LEFT | {
    "template": common.TEMPLATE,
    "enable_thinking": common.TEMPLATE,
    "preprocessing_*": common.LOADING,
    "overwrite_cache": common.LOADING,
    "mix_strategy": PROBABILITIES,
    "interleave_probs": PROBABILITIES,
    "tokenized_path": common.LOADING,
    "media_dir": common.LOADING,
    "use_fast_tokenizer": common.LOADING,
    "low_cpu_mem_usage": common.LOADING,
    "neat_packing": "packed rows never see each other",
    "train_on_prompt": common.ONLY_ANSWERS,
    "mask_history": "every assistant turn is learnt; mark a turn with train: false to leave it out",
    "pissa_*": "adapters begin as LoRA's do (B is zero)",
    "quantization_*": "4 bits are NF4 with double quantisation",
    "double_quantization": "4 bits are NF4 with double quantisation",
    "upcast_*": "norms and the adapter are computed as model.dtype says",
    "disable_gradient_checkpointing": "train.activation_checkpointing: auto recomputes on GPUs",
    "use_unsloth": common.KERNELS,
    "cache_dir": "the Hugging Face cache is HF_HOME's",
}
_ROLE_TAGS = {
    "system": "system_tag", "user": "user_tag", "assistant": "assistant_tag", "tool": "observation_tag",
}  # fmt: skip


def translate(source: Source, devices: int | None, sets: Mapping[str, Any] | None = None) -> Carried:
    """``sets``: the content of dataset_info.json, where it is at hand."""
    carried = Carried()
    source.take("stage")
    carried.put("model.source", source.text("model_name_or_path"), origin="model_name_or_path")
    carried.put("model.revision", source.text("model_revision"), origin="model_revision")
    if source.flag("trust_remote_code"):
        carried.put("model.trust_remote_code", True, origin="trust_remote_code")
    _data(carried, source, sets or {})
    _adapter(carried, source)
    length = source.whole("cutoff_len", 2048) or 2048
    packing = source.flag("packing") or source.flag("neat_packing")
    carried.put("data.max_length", length, origin="cutoff_len")
    carried.put("data.packing", packing, origin="packing")
    rows = source.count("per_device_train_batch_size", 8)
    accumulation = source.count("gradient_accumulation_steps", 1)
    common.put_batch(carried, rows, accumulation, devices, length, packing)
    transformers.read(carried, source, learning_rate=5e-5)
    carried.leave_rest(source, LEFT)
    return carried


def _data(carried: Carried, source: Source, sets: Mapping[str, Any]) -> None:
    folder = source.text("dataset_dir", "data") or "data"
    names = source.names("dataset")
    if names is None:
        raise source.wrong("dataset", "no data set is named")
    most = source.whole("max_samples")
    found = []
    for name in names:
        place, layout = _one(carried, name, sets.get(name), folder)
        entry = sets.get(name)
        limits = [most]
        if isinstance(entry, dict):
            limits += [first_rows(entry.get("split")), _drawn(carried, name, entry)]
        found.append(Found(place, layout, min((each for each in limits if each), default=None)))
    put_sources(carried, found, "dataset")
    if system := source.text("default_system"):
        carried.put("data.system", system, origin="default_system")
    held_out = source.names("eval_dataset")
    if held_out:
        places = [_one(carried, name, sets.get(name), folder)[0] for name in held_out]
        for name in held_out:
            if isinstance(entry := sets.get(name), dict):
                leave_first_rows(carried, name, entry.get("split"))
        carried.put("data.validation", common.one_or_list(places), origin="eval_dataset")
        source.take("val_size")
    else:
        common.put_validation(carried, source, "val_size")


def _drawn(carried: Carried, name: str, entry: Mapping[str, Any]) -> int | None:
    """So many rows of a data set, drawn there."""
    count = entry.get("num_samples")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        return None
    carried.leave(f"num_samples of the data set {name}: {count}", "the first rows are taken, not drawn ones")
    return count


def _one(carried: Carried, name: str, entry: Any, folder: str) -> tuple[str, Layout]:
    """Where a data set of that name is, and its format if that is known."""
    if folder.startswith("REMOTE:"):
        carried.leave(
            f"dataset_dir: {folder}", f"which file of it {name} is, is not known; all of it was taken"
        )
        return folder.removeprefix("REMOTE:"), Layout()
    if not isinstance(entry, dict):
        if "/" in name:
            return name, Layout()
        carried.leave(
            f"the data set {name}",
            f"{folder}/dataset_info.json does not tell where it is; {folder}/{name}.json was taken",
        )
        return f"{folder}/{name}.json", Layout()
    layout = _layout(carried, name, entry)
    for key in ("ranking", "folder"):
        if entry.get(key):
            carried.leave(
                f"{key} of the data set {name}",
                "there is no such setting of a source; check the rows with packtrain data",
            )
    if hub := entry.get("hf_hub_url"):
        return common.hub_source(
            str(hub), entry.get("subset"), common.whole_split(carried, name, entry.get("split"))
        ), layout
    return f"{folder}/{entry.get('file_name', name + '.json')}", layout


def _layout(carried: Carried, name: str, entry: dict[str, Any]) -> Layout:
    named, tags = (_names(entry.get(key)) for key in ("columns", "tags"))
    talks = entry.get("formatting") in {"sharegpt", "openai"}
    known = {"messages", "system", "tools"} if talks else {"prompt", "query", "response", "system"}
    for key in sorted(named.keys() - known):
        carried.leave(
            f"columns.{key} of the data set {name}: {named[key]}", "there is no such column of a row"
        )
    if not talks:
        return Layout(
            "alpaca",
            columns(
                instruction=named.get("prompt"), input=named.get("query"), output=named.get("response"),
                system=named.get("system"),
            ),
        )  # fmt: skip
    if (call := tags.get("function_tag", "function_call")) not in {"function_call", "function"}:
        carried.leave(f"tags.function_tag of the data set {name}: {call}", "calls are turns of function_call")
    roles = {ours: [tags[key]] for ours, key in _ROLE_TAGS.items() if key in tags}
    return talk(
        named.get("messages", "conversations"),
        role=tags.get("role_tag"),
        content=tags.get("content_tag"),
        roles=roles,
        system=named.get("system"),
        tools=named.get("tools"),
    )


def _names(value: Any) -> dict[str, str]:
    """The texts of a map; an empty one names nothing."""
    found = value.items() if isinstance(value, dict) else ()
    return {key: name for key, name in found if isinstance(name, str) and name.strip()}


def _adapter(carried: Carried, source: Source) -> None:
    bits, dora = source.whole("quantization_bit"), source.flag("use_dora")
    rank = source.whole("lora_rank", 8) or 8
    alpha, dropout = source.number("lora_alpha", 2 * rank), source.number("lora_dropout", 0.0)
    names, saved = source.names("lora_target"), source.names("additional_target")
    rslora, ratio = source.flag("use_rslora"), source.number("loraplus_lr_ratio")
    if (source.text("finetuning_type") or "lora") == "full":
        carried.put("adapter.kind", "none", "finetuning_type: full", "finetuning_type")
        return
    transformers.put_quantised(carried, source, four_bits=bits == 4, dora=dora)
    if bits not in {None, 4}:
        carried.leave(f"quantization_bit: {bits}", common.QUANT8)
    carried.put("adapter.rank", rank, origin="lora_rank")
    carried.put("adapter.alpha", alpha, origin="lora_alpha")
    carried.put("adapter.dropout", dropout, origin="lora_dropout")
    common.put_targets(carried, names or ["all"], "lora_target")
    carried.put("adapter.modules_to_save", saved, origin="additional_target")
    if rslora:
        carried.put("adapter.rslora", True, origin="use_rslora")
    carried.put("adapter.loraplus_lr_ratio", ratio, origin="loraplus_lr_ratio")
