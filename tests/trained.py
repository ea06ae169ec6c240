"""An adapter on a tiny base: packtrain's own LoRA layers with random weights, and what they compute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from packtrain.artifacts.adapter_files import write_adapter
from packtrain.artifacts.card import CardFacts
from packtrain.artifacts.training_args import TrainingFacts
from packtrain.config import AdapterConfig
from packtrain.model.adapter import add_adapter


@dataclass(frozen=True)
class Trained:
    base: Path
    tensors: dict[str, torch.Tensor]
    lora: dict[str, Any]
    sample: torch.Tensor
    logits: torch.Tensor
    card: CardFacts
    training: TrainingFacts

    def write(self, folder: Path, **changes: Any) -> list[str]:
        """The adapter's folder, with some arguments of write_adapter changed."""
        arguments: dict[str, Any] = {
            "tensors": self.tensors,
            "lora": self.lora,
            "base_folder": self.base,
            "base_identity": str(self.base),
            "base_revision": None,
            "tokenizer": AutoTokenizer.from_pretrained(self.base),
            "chat_template": None,
            "card": self.card,
            "training": self.training,
        }
        return write_adapter(folder, **(arguments | changes))


def plain_base(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def trained_on(base: Path, dtype: torch.dtype = torch.float32) -> Trained:
    """Random B, as if trained; logits by packtrain's own layers."""
    model = plain_base(base, dtype)
    adapter = add_adapter(model, AdapterConfig(rank=4, alpha=8.0), seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, weight in adapter.named_parameters().items():
        if name.endswith("lora_B.weight"):
            weight.data.normal_(std=0.2, generator=generator)
    sample = torch.randint(0, 256, (24,), generator=generator)
    with torch.inference_mode():
        logits = model(input_ids=sample[None]).logits[0, -16:]
    return Trained(
        base=base,
        tensors=adapter.tensors(),
        lora=adapter.peft_config(),
        sample=sample,
        logits=logits.clone(),
        card=CardFacts(
            name="tiny",
            run_id="01KATEST000000000000000000",
            base_source=str(base),
            base_identity=str(base),
            base_revision=None,
            data=["train.jsonl (sha256 abc), 12 rows"],
            data_fingerprint="f" * 64,
            settings={"train.learning_rate": 2e-4, "adapter.targets": "all-linear", "data.train": ["a|b"]},
            base_loss=2.0,
            loss=1.0,
            train_loss=1.5,
            answers=(0, 11, 12),
            versions={"peft": "0.21.2"},
        ),
        training=TrainingFacts(
            learning_rate=2e-4,
            schedule="cosine",
            warmup_steps=3,
            epochs=1.5,
            steps=42,
            micro_batch=2,
            accumulation=4,
            weight_decay=0.01,
            beta1=0.9,
            beta2=0.98,
            epsilon=1e-8,
            max_grad_norm=0.5,
            seed=7,
            dtype="float32",
            activation_checkpointing=False,
            device="cpu",
        ),
    )
