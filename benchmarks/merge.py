"""What ``packtrain export --merged`` takes of time and memory, on random shards of any size.

    python benchmarks/merge.py --base FOLDER [--shape 4096,8,32,8,128256] [--kind lora]

FOLDER gives the tokenizer. SHAPE is hidden,layers,heads,kv,vocab of a Llama, whose feed-forward part is
3.5 times as wide as hidden, as Llama 3's: by default 5.6 GB in bfloat16, with tensors as large as those of
the 8B. The export is a process of its own, which measures itself; the files lie in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from measured import peak_rss
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
#: Of random weights, so that a forward pass stays finite.
SIZE = 0.02


def config_of(shape: str, tokenizer: Path) -> LlamaConfig:
    hidden, layers, heads, key_value, vocab = (int(number) for number in shape.split(","))
    tokens = AutoTokenizer.from_pretrained(tokenizer)
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=hidden * 7 // 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value,
        vocab_size=max(vocab, len(tokens)),
        tie_word_embeddings=False,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        dtype="bfloat16",
    )


def write_base(config: LlamaConfig, tokenizer: Path, folder: Path) -> int:
    """A shard for each layer, and one for the rest, a tensor at a time in memory; the bytes of all."""
    folder.mkdir()
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for name, weight in model.state_dict().items():
        shards.setdefault(name.split(".")[2] if ".layers." in name else "rest", {})[name] = weight
    generator, where, size = torch.Generator().manual_seed(0), {}, 0
    for number, tensors in enumerate(shards.values(), 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        made = {name: _random(name, like, generator) for name, like in tensors.items()}
        save_file(made, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(made, file)
        size += sum(tensor.nbytes for tensor in made.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    for name in TOKENIZER:
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder / name)
    return size


def _random(name: str, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(like.shape, dtype=torch.bfloat16)
    return torch.empty(like.shape, dtype=torch.bfloat16).normal_(0.0, SIZE, generator=generator)


def write_adapter(config: LlamaConfig, base: Path, folder: Path, kind: str) -> None:
    """As peft writes it, with a B that is not zero."""
    with torch.device("meta"):
        lora = LoraConfig(
            r=16,
            lora_alpha=32,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            use_dora=kind == "dora",
        )
        model = get_peft_model(LlamaForCausalLM(config), lora)
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name.replace(".default", ""): torch.empty(weight.shape).normal_(0.0, SIZE, generator=generator)
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }
    if kind == "dora":
        tensors |= dict(_magnitudes(tensors, base))
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    lora.base_model_name_or_path = str(base)
    lora.target_modules = sorted({name.split(".")[-3] for name in tensors if "lora_A" in name})
    lora.save_pretrained(folder)


def _magnitudes(tensors: dict[str, torch.Tensor], base: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Of the base's rows, as DoRA begins."""
    from safetensors import safe_open

    where = json.loads((base / "model.safetensors.index.json").read_text())["weight_map"]
    for name in [name for name in tensors if name.endswith("lora_magnitude_vector.weight")]:
        path = name.removeprefix("base_model.model.").removesuffix(".lora_magnitude_vector.weight")
        with safe_open(base / where[f"{path}.weight"], "pt") as shard:
            weight = shard.get_tensor(f"{path}.weight")
        yield name, weight.float().norm(dim=1)


def export(adapter: Path, target: Path) -> None:
    """In this process, which has imported what the export imports itself; a line of JSON about it."""
    from packtrain.cli.main import main

    began = time.perf_counter()
    code = main(["export", str(adapter), "--merged", str(target)])
    print(json.dumps({"code": code, "seconds": time.perf_counter() - began, "peak_rss_bytes": peak_rss()}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="a folder with a tokenizer")
    parser.add_argument("--shape", default="4096,8,32,8,128256", help="hidden,layers,heads,kv,vocab")
    parser.add_argument("--kind", default="lora", choices=["lora", "dora"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="packtrain-merge-") as name:
        folder = Path(name)
        config = config_of(options.shape, options.base)
        size = write_base(config, options.base, folder / "base")
        write_adapter(config, folder / "base", folder / "adapter", options.kind)
        inside = [sys.executable, __file__, "--export", str(folder / "adapter"), str(folder / "merged")]
        ended = subprocess.run(inside, check=True, stdout=subprocess.PIPE, text=True)
    *said, last = ended.stdout.splitlines()
    found = json.loads(last)
    print("\n".join(said))
    print(
        f"{size / 1e9:.2f} GB of {options.kind}'s base: exit code {found['code']}, {found['seconds']:.0f} s, "
        f"peak RSS {found['peak_rss_bytes'] / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--export"]:
        export(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
