"""The arguments of transformers' Trainer, which LLaMA-Factory and TRL take by the same names."""

from __future__ import annotations

from packtrain.runfile.elsewhere import common
from packtrain.runfile.elsewhere.carried import Carried
from packtrain.runfile.elsewhere.source import Source

#: Keys of the Trainer that have no place in a run file -> why.
LEFT = {
    "logging_*": common.LOGGING,
    "report_to": common.LOGGING,
    "run_name": common.LOGGING,
    "plot_loss": common.LOGGING,
    "disable_tqdm": common.LOGGING,
    "log_level": common.LOGGING,
    "deepspeed": common.SHARDING,
    "fsdp*": common.SHARDING,
    "ddp_*": common.SHARDING,
    "accelerate_config": common.SHARDING,
    "ray_*": common.SHARDING,
    "bf16": "model.dtype: auto computes in bfloat16 on a GPU that has it",
    "pure_bf16": "model.dtype: auto computes in bfloat16 on a GPU that has it",
    "fp16": "there is no float16; model.dtype: auto takes bfloat16 or float32",
    "tf32": common.KERNELS,
    "flash_attn": common.KERNELS,
    "attn_implementation": common.KERNELS,
    "torch_compile*": common.KERNELS,
    "use_liger_kernel": common.KERNELS,
    "enable_liger_kernel": common.KERNELS,
    "gradient_checkpointing_kwargs": common.KERNELS,
    "activation_offloading": "activations are recomputed or kept, not moved to the host",
    "dataloader_*": common.LOADING,
    "dataset_num_proc": common.LOADING,
    "remove_unused_columns": common.LOADING,
    "group_by_length": "the order of rows follows from the seed alone",
    "push_to_hub": common.HUB,
    "hub_*": common.HUB,
    "resume_from_checkpoint": common.RESUME,
    "overwrite_output_dir": common.RESUME,
    "save_only_model": common.RESUME,
    "save_safetensors": "what is saved is safetensors, always",
    "do_train": "packtrain train trains",
    "do_eval": "packtrain train evaluates where there is validation data",
    "per_device_eval_batch_size": "how validation is batched does not change the result",
    "eval_strategy": "the validation split is evaluated a share of the run apart (evaluate.every)",
    "load_best_model_at_end": "the last weights are published; evaluate.fail_if refuses bad ones",
    "metric_for_best_model": "the last weights are published; evaluate.fail_if refuses bad ones",
    "neftune_noise_alpha": "no noise is added to embeddings",
    "label_smoothing_factor": "the loss is plain cross-entropy",
    "adam_epsilon": "AdamW's epsilon is PyTorch's default",
    "data_seed": "train.seed decides the order of rows, too",
}


def read(carried: Carried, source: Source, *, learning_rate: float) -> None:
    """``train``, ``checkpoint``, ``evaluate.every`` and ``output``, with the Trainer's defaults.

    ``learning_rate``: what the trainer takes where the file names none.
    """
    carried.put("train.epochs", source.number("num_train_epochs", 3.0), origin="num_train_epochs")
    if (steps := source.whole("max_steps")) is not None and steps > 0:
        carried.put("train.max_steps", steps, origin="max_steps")
        # max_steps overrides epochs there, and ends the sooner of both here.
        carried.put("train.epochs", 10_000, "max_steps decides")
    carried.put("train.learning_rate", source.number("learning_rate", learning_rate), origin="learning_rate")
    schedule = common.put_schedule(carried, source, "lr_scheduler_type", "linear")
    common.put_warmup(carried, source, schedule)
    carried.put("train.weight_decay", source.number("weight_decay", 0.0), origin="weight_decay")
    carried.put("train.beta1", source.number("adam_beta1"), origin="adam_beta1")
    carried.put("train.beta2", source.number("adam_beta2"), origin="adam_beta2")
    put_clip(carried, source)
    carried.put("train.seed", source.whole("seed", 42), origin="seed")
    if source.has("gradient_checkpointing"):
        carried.put(
            "train.activation_checkpointing",
            source.flag("gradient_checkpointing"),
            origin="gradient_checkpointing",
        )
    common.put_optimizer(carried, source, "optim")
    put_checkpoints(carried, source)
    common.put_output(carried, source, "output_dir", source.text("output_dir"))


def put_clip(carried: Carried, source: Source, default: float = 1.0) -> None:
    """``train.max_grad_norm``; 0 clips nothing there, and a limit that nothing reaches does the same here."""
    norm = source.number("max_grad_norm", default)
    said = "max_grad_norm" if norm else "max_grad_norm: 0, nothing is clipped"
    carried.put("train.max_grad_norm", norm or 1e9, said, "max_grad_norm")


def put_checkpoints(carried: Carried, source: Source) -> None:
    for theirs, ours in (("save_steps", "checkpoint.every"), ("eval_steps", "evaluate.every")):
        every = source.number(theirs)
        if every is not None and every >= 1:
            carried.put(ours, int(every), f"{theirs}; in steps", theirs)
        elif every is not None and ours == "evaluate.every" and every > 0:
            carried.put(ours, every, f"{theirs}; a share of the run", theirs)
        elif every is not None:
            carried.leave(
                f"{theirs}: {every}", "checkpoints are a duration or steps apart; 5 minutes were taken"
            )
    carried.put("checkpoint.keep", source.whole("save_total_limit"), origin="save_total_limit")
    carried.leave_key(source, "save_strategy", "checkpoints are a duration or steps apart (checkpoint.every)")


def put_quantised(carried: Carried, source: Source, *, four_bits: bool, dora: bool) -> None:
    """``adapter.kind`` of an adapter from 4 bits and DoRA, which go together nowhere here."""
    carried.put("adapter.kind", "qlora" if four_bits else "dora" if dora else "lora")
    if four_bits and dora:
        carried.leave("DoRA on a base in 4 bits", "a base in 4 bits takes LoRA alone; qlora was taken")
