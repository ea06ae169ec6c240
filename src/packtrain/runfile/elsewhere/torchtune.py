"""torchtune: the YAML of ``tune run`` for its LoRA and full fine-tuning recipes.

Its components are named by dotted paths (``_component_``); their defaults are those of its code.
"""

from __future__ import annotations

import re
from typing import Any

from packtrain.runfile.elsewhere import common
from packtrain.runfile.elsewhere.carried import Carried
from packtrain.runfile.elsewhere.layouts import Layout, columns
from packtrain.runfile.elsewhere.mixture import Found, first_rows, leave_first_rows, put_sources
from packtrain.runfile.elsewhere.source import Source, shown

LEFT = {
    "tokenizer*": "the base's own tokenizer.json and chat template are used",
    "checkpointer*": "a run's result is what plain peft or transformers loads, with a receipt",
    "resume_from_checkpoint": common.RESUME,
    "save_adapter_weights_only": "the adapter alone is published; packtrain export merges it",
    "shuffle": "rows are shuffled by train.seed",
    "loss*": "the loss is plain cross-entropy",
    "compile": common.KERNELS,
    "optimizer.fused": common.KERNELS,
    "optimizer_in_bwd": "the optimizer steps after the whole backward pass",
    "metric_logger*": common.LOGGING,
    "log_*": common.LOGGING,
    "profiler*": "packtrain doctor and the events tell where time goes; there is no profiler",
    "device": "a GPU is used where there is one, or else the CPU",
    "enable_activation_offloading": "activations are recomputed or kept, not moved to the host",
    "activation_offloading_*": "activations are recomputed or kept, not moved to the host",
    "custom_sharded_layers": common.SHARDING,
    "fsdp_*": common.SHARDING,
    "tensor_parallel*": common.SHARDING,
    "data_parallel_*": common.SHARDING,
    "batch_size_val": "how validation is batched does not change the result",
    "run_val_every_n_steps": "the validation split is evaluated a share of the run apart (evaluate.every)",
    "quantizer*": "there is no training for quantisation",
    "collate_fn": common.LOADING,
    "low_cpu_ram": common.LOADING,
}
_NAMES = {"output_proj": "o_proj", "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_MLP = ["gate_proj", "up_proj", "down_proj"]
#: ``tune download OWNER/NAME`` writes to /tmp/NAME: the beginning of NAME tells the owner.
_OWNERS = {
    "Meta-Llama": "meta-llama",
    "Llama-": "meta-llama",
    "CodeLlama": "codellama",
    "Qwen": "Qwen",
    "Mistral": "mistralai",
    "gemma": "google",
    "Phi": "microsoft",
    "phi": "microsoft",
    "TinyLlama": "TinyLlama",
}
#: Builder of a data set -> where its rows are by default.
_SETS = {
    "alpaca_dataset": "tatsu-lab/alpaca",
    "alpaca_cleaned_dataset": "yahma/alpaca-cleaned",
    "slimorca_dataset": "Open-Orca/SlimOrca-Dedup",
    "samsum_dataset": "Samsung/samsum",
    "grammar_dataset": "liweili/c4_200m",
}
#: Builder of a data set of pairs -> its columns of question and answer.
_PAIRS = {
    "instruct_dataset": ("input", "output"),
    "samsum_dataset": ("dialogue", "summary"),
    "grammar_dataset": ("input", "output"),
}
_STYLES = {"sharegpt": "sharegpt", "openai": "messages"}
_STYLE_OF = {"slimorca_dataset": "sharegpt"}
_COLUMN = {"sharegpt": "conversations", "messages": "messages"}
_FILES = {"json", "csv", "parquet"}
_SLICE = re.compile(r"(\w+)\[:(\d+)(%?)\]$")
_VARIABLE = re.compile(r"\$\{([\w.]+)\}")


def translate(source: Source, devices: int | None) -> Carried:
    carried = Carried()
    _model(carried, source)
    packing = _data(carried, source)
    length = source.whole("tokenizer.max_seq_len")
    if length is None:
        length = 2048
        carried.leave(
            "rows of any length (tokenizer.max_seq_len)", "rows are cut at data.max_length; 2048 was taken"
        )
    carried.put("data.max_length", length, origin="tokenizer.max_seq_len")
    carried.put("data.packing", packing, origin="dataset.packed")
    rows = source.count("batch_size", 1)
    accumulation = source.count("gradient_accumulation_steps", 1)
    common.put_batch(carried, rows, accumulation, devices, length, packing)
    _train(carried, source)
    carried.leave_rest(source, LEFT)
    return carried


def _model(carried: Carried, source: Source) -> None:
    folder = source.text("checkpointer.checkpoint_dir")
    if folder is None:
        raise source.wrong("checkpointer.checkpoint_dir", "is not there: it tells where the base is")
    folder = _resolved(source, folder)
    name = folder.rstrip("/").removesuffix("/original").rpartition("/")[2]
    owner = next((owner for start, owner in _OWNERS.items() if name.startswith(start)), None)
    if folder.startswith("/tmp/") and owner:  # noqa: S108  (a name in a config, never opened)
        said = f"where tune download put {folder} from; a folder will do, too"
        carried.put("model.source", f"{owner}/{name}", said, "checkpointer.checkpoint_dir")
    else:
        carried.put("model.source", folder, origin="checkpointer.checkpoint_dir")
    if dtype := source.text("dtype"):
        ours = {"bf16": "bfloat16", "fp32": "float32"}.get(dtype)
        carried.put("model.dtype", ours, origin="dtype")
        if ours is None:
            carried.leave(
                f"dtype: {shown('', dtype)}",
                "bases stand in bfloat16 or float32; model.dtype: auto was taken",
            )
    builder = (source.text("model._component_") or "").rpartition(".")[2]
    if not builder.startswith(("lora_", "qlora_")):
        carried.put("adapter.kind", "none", f"{builder}: every weight is trained", "model._component_")
        return
    four = builder.startswith("qlora_") or source.flag("model.quantize_base")
    dora = source.flag("model.use_dora")
    carried.put("adapter.kind", "qlora" if four else "dora" if dora else "lora", builder, "model._component_")
    if four and dora:
        carried.leave("model.use_dora: true", "a base in 4 bits takes LoRA alone; qlora was taken")
    carried.put("adapter.rank", source.whole("model.lora_rank", 8), origin="model.lora_rank")
    carried.put("adapter.alpha", source.number("model.lora_alpha", 16), origin="model.lora_alpha")
    carried.put("adapter.dropout", source.number("model.lora_dropout", 0.0), origin="model.lora_dropout")
    names = [_NAMES.get(each, each) for each in source.names("model.lora_attn_modules") or []]
    if source.flag("model.apply_lora_to_mlp"):
        names += _MLP
    if source.flag("model.apply_lora_to_output"):
        names.append("lm_head")
    common.put_targets(carried, names, "model.lora_attn_modules")


def _data(carried: Carried, source: Source) -> bool:
    """``data.train`` and its validation; returns whether rows are packed."""
    entry = source.take("dataset")
    sets = entry if isinstance(entry, list) else [entry]
    if not sets or not all(isinstance(each, dict) and each.get("_component_") for each in sets):
        raise source.wrong("dataset", "must be a data set with a _component_")
    found = [_one(carried, each, "dataset") for each in sets]
    limits = [first_rows(each.get("split")) for each in sets]
    put_sources(carried, [Found(*each, limit) for each, limit in zip(found, limits, strict=True)], "dataset")
    _validation(carried, source, sets)
    packed = [each.get("packed", False) for each in sets]
    top = source.take("dataset.packed", False)
    return any(each is True for each in [*packed, top])


def _validation(carried: Carried, source: Source, sets: list[dict[str, Any]]) -> None:
    held_out = source.take("dataset_val")
    if not isinstance(held_out, dict):
        carried.put("data.validation", 0, "none is evaluated there")
        return
    cut = _SLICE.match(str(sets[0].get("split", "train")))
    if cut and cut[3] and str(held_out.get("split")) == f"{cut[1]}[{cut[2]}%:]":
        share = round(1 - int(cut[2]) / 100, 4)
        carried.put(
            "data.validation", share, f"{held_out['split']}; which rows, the seed decides", "dataset_val"
        )
    else:
        carried.put("data.validation", _one(carried, held_out, "dataset_val")[0], origin="dataset_val")


def _one(carried: Carried, entry: dict[str, Any], where: str) -> tuple[str, Layout]:
    builder = str(entry["_component_"]).rpartition(".")[2]
    place = _SETS.get(builder)
    layout = _layout(carried, builder, entry, where)
    place = str(entry.get("source") or place or "")
    if not place:
        carried.leave(f"{where}: {builder}", "where its rows are is not known; set data.train")
        place = f"{builder}.jsonl"
    if layout.format is None:
        carried.leave(f"{where}._component_: {builder}", "data.format: auto looks at the columns instead")
    if entry.get("train_on_input", builder in {"alpaca_dataset", "alpaca_cleaned_dataset"}):
        carried.leave(f"{where}.train_on_input: true", common.ONLY_ANSWERS)
    understood = {
        "_component_",
        "source",
        "conversation_style",
        "train_on_input",
        "packed",
        "split",
        "data_files",
        "column",
        "column_map",
        "conversation_column",
        "new_system_prompt",
    }
    for key in sorted(entry.keys() - understood - {"name", "subset"}):
        if entry[key] is not None:
            carried.leave(f"{where}.{key}: {shown(key, entry[key])}", "check the rows with packtrain data")
    files = entry.get("data_files")
    if isinstance(files, str) and place in _FILES:
        return files, layout
    if files:
        carried.leave(f"{where}.data_files: {shown('', files)}", "name the files themselves in data.train")
    split = str(entry.get("split") or "train")
    if cut := _SLICE.match(split):
        split = cut[1]
        if not cut[3]:
            if where != "dataset":
                leave_first_rows(carried, f"{where}.split", entry["split"])
        elif where == "dataset":
            carried.leave(
                f"{where}.split: {entry['split']}",
                "the rest is for validation (data.validation), or trained on",
            )
    else:
        split = common.whole_split(carried, f"{where}.split", split)
    return common.hub_source(place, entry.get("name") or entry.get("subset"), split), layout


def _layout(carried: Carried, builder: str, entry: dict[str, Any], where: str) -> Layout:
    mapped, said = entry.get("column_map"), entry.get("new_system_prompt")
    named = {key: str(name) for key, name in (mapped if isinstance(mapped, dict) else {}).items() if name}
    system = said if isinstance(said, str) and said.strip() else None
    layout = Layout(system=system)
    if builder in {"alpaca_dataset", "alpaca_cleaned_dataset"}:
        ours = {key: named.pop(key, None) for key in ("instruction", "input", "output")}
        layout = Layout("alpaca", columns(**ours), system=system)
    elif builder in _PAIRS:
        question, answer = _PAIRS[builder]
        pair = {"prompt": named.pop("input", question), "completion": named.pop("output", answer)}
        layout = Layout("prompt-completion", pair, system=system)
    elif builder == "text_completion_dataset":
        layout = Layout("text", columns(text=entry.get("column")))
    elif style := _STYLES.get(str(entry.get("conversation_style") or _STYLE_OF.get(builder))):
        ours_there = _COLUMN[style]
        column = entry.get("conversation_column") or named.pop(ours_there, None)
        layout = Layout(style, columns(**{ours_there: column}), system=system)
    for key, name in named.items():
        carried.leave(f"{where}.column_map.{key}: {name}", "there is no such column of a row")
    return layout


def _train(carried: Carried, source: Source) -> None:
    epochs = source.number("epochs", 1) or 1
    carried.put("train.epochs", epochs, origin="epochs")
    if per_epoch := source.whole("max_steps_per_epoch"):
        said = f"max_steps_per_epoch × {epochs:g} epochs"
        carried.put("train.max_steps", int(per_epoch * epochs), said, "max_steps_per_epoch")
    optimizer = (source.text("optimizer._component_") or "").rpartition(".")[2]
    if "adamw" not in optimizer.lower():
        carried.leave(f"optimizer: {optimizer}", "the optimizer is AdamW; its learning rate may not fit")
    elif optimizer != "AdamW":
        carried.leave(f"optimizer: {optimizer}", "AdamW's states are in float32, not in 8 bits or paged")
    rate = source.number("optimizer.lr")
    carried.put("train.learning_rate", 1e-3 if rate is None else rate, origin="optimizer.lr")
    decay = source.number("optimizer.weight_decay")
    said = "optimizer.weight_decay" if decay is not None else "the default of torch.optim.AdamW"
    carried.put("train.weight_decay", 0.01 if decay is None else decay, said, "optimizer.weight_decay")
    scheduler = (source.text("lr_scheduler._component_") or "").rpartition(".")[2]
    warmup = source.whole("lr_scheduler.num_warmup_steps", 0)
    schedule = "cosine" if "cosine" in scheduler else "linear" if "linear" in scheduler else "constant"
    if scheduler and schedule == "constant" and "constant" not in scheduler:
        carried.leave(
            f"lr_scheduler: {scheduler}", "schedules are cosine, linear and constant; constant was taken"
        )
    carried.put("train.schedule", schedule, scheduler or "there is no lr_scheduler", "lr_scheduler")
    carried.put("train.warmup", warmup, "steps", "lr_scheduler.num_warmup_steps")
    norm = source.number("clip_grad_norm")
    said = "clip_grad_norm" if norm else "clip_grad_norm: null, nothing is clipped"
    carried.put("train.max_grad_norm", norm or 1e9, said, "clip_grad_norm")
    seed = source.whole("seed")
    carried.put(
        "train.seed",
        42 if seed is None else seed,
        "" if seed is not None else "chosen anew in each run there",
        "seed",
    )
    if source.has("enable_activation_checkpointing"):
        carried.put(
            "train.activation_checkpointing",
            source.flag("enable_activation_checkpointing"),
            origin="enable_activation_checkpointing",
        )
    output = source.text("output_dir")
    common.put_output(carried, source, "output_dir", _resolved(source, output) if output else None)


def _resolved(source: Source, text: str) -> str:
    """With ``${output_dir}`` and the like replaced as OmegaConf does; a few levels deep."""

    def value(match: re.Match[str]) -> str:
        found: Any = source.document.data
        for part in match[1].split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if not isinstance(found, str):
            raise source.wrong(match[1].split(".")[0], f"${{{match[1]}}} names no text of this file")
        return found

    for _ in range(5):
        if not _VARIABLE.search(text):
            break
        text = _VARIABLE.sub(value, text)
    return text
