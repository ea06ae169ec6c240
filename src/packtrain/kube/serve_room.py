"""Which machine serves a run: what vLLM needs of each GPU, from the base's config.json and the run file.

vLLM divides weights and KV cache by its tensor parallelism, which are all GPUs of a machine here, and
takes what the cache may have at the start: what is left of 0.9 of each GPU. Bytes are of one GPU, GB are 10⁹.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packtrain.artifacts.vllm_ranks import RANKS, least_rank
from packtrain.config import RunConfig
from packtrain.errors import ConfigError, GateError
from packtrain.kube.resources import of_machine
from packtrain.plan.machines import GIB, Capacity, Machine, machines, price_per_hour

#: vLLM's `--gpu-memory-utilization`, which the manifest says.
UTILIZATION = 0.9
#: Conversations of the full served length that a machine has room for at once, where none is named.
CONVERSATIONS = 8
#: The least that a server is told.
LEAST_RANK = 8
#: Of weights and cache: vLLM's `--dtype auto` computes in two bytes whatever the files hold.
TYPE_SIZE = 2
#: What a GPU needs beside weights, adapter and cache: 1.26 GiB of activations, and 1.79 GiB that are not
#: PyTorch's, or 3.58 where several GPUs talk. vLLM's own figures for Meta-Llama-3-8B:
#: https://github.com/vllm-project/vllm/pull/10511
ALONE, TOGETHER = int(3.05 * GIB), int(4.84 * GIB)
#: Of the machine's own memory, for each GPU's process beside the weights, which go through it. An assumption.
PROCESS = 4 * GIB


@dataclass(frozen=True)
class Served:
    """The base, as far as it decides what serving takes."""

    parameters: int
    file_bytes: int
    """Of its weights, as they lie on a disk."""
    linear_width: int
    """Inputs and outputs of all linear layers but the head, together."""
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    positions: int
    """The longest conversation that the base knows."""


@dataclass(frozen=True)
class Room:
    """What one GPU of a machine needs, and has."""

    weights: int
    adapter: int
    overhead: int
    conversation: int
    """KV cache of one conversation of the served length."""
    usable: int

    @property
    def conversations(self) -> int:
        """Of full length, at once; 0: vLLM does not start."""
        return max(0, self.usable - self.weights - self.adapter - self.overhead) // self.conversation


def served_of(config: RunConfig, model_config: Mapping[str, Any]) -> Served:
    """``model_config``: the content of config.json. Errors: :class:`ConfigError`."""
    import torch

    from packtrain.model.quiet import quiet_transformers
    from packtrain.plan.build import build_model, parameters, stored_size
    from packtrain.plan.setup import setup_of

    setup = setup_of(config, model_config, device="cuda", micro_batch=1)
    with quiet_transformers(), torch.device("meta"):
        model = build_model(setup)
    head, text = model.get_output_embeddings(), model.config.get_text_config()
    linear = [each for each in model.modules() if isinstance(each, torch.nn.Linear) and each is not head]
    heads, count = int(text.num_attention_heads), parameters(setup)
    return Served(
        parameters=count,
        file_bytes=count * stored_size(setup),
        linear_width=sum(each.in_features + each.out_features for each in linear),
        layers=int(text.num_hidden_layers),
        heads=heads,
        kv_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_size=int(getattr(text, "head_dim", None) or text.hidden_size // heads),
        positions=int(getattr(text, "max_position_embeddings", None) or config.data.max_length),
    )


def lora_rank(rank: int) -> int:
    """What vLLM has to be told. Errors: :class:`ConfigError` above its limit."""
    told = least_rank(max(rank, LEAST_RANK))
    if told is None:
        raise ConfigError(f"adapter.rank: {rank} is more than vLLM serves ({RANKS[-1]})")
    return told


def served_length(config: RunConfig, served: Served | None) -> int:
    """Tokens of the longest conversation: the training's, as far as the base knows so many."""
    return config.data.max_length if served is None else min(config.data.max_length, served.positions)


def room(config: RunConfig, served: Served, machine: Machine) -> Room:
    gpus = machine.gpus
    rank = 0 if config.adapter.kind == "none" else lora_rank(config.adapter.rank)
    # Fewer key heads than GPUs: each GPU has one of them whole.
    kv_heads = max(1, served.kv_heads // gpus)
    token = 2 * served.layers * kv_heads * served.head_size * TYPE_SIZE
    return Room(
        weights=served.parameters * TYPE_SIZE // gpus,
        # vLLM holds both matrices for every linear layer, whichever the adapter has; some of them undivided.
        adapter=served.linear_width * rank * TYPE_SIZE,
        overhead=ALONE if gpus == 1 else TOGETHER,
        conversation=token * served_length(config, served),
        usable=int(machine.gpu_memory * UTILIZATION),
    )


def divides(served: Served, gpus: int) -> bool:
    """Whether vLLM can spread the attention heads over ``gpus``."""
    return served.heads % gpus == 0 and (served.kv_heads % gpus == 0 or gpus % served.kv_heads == 0)


def choose(config: RunConfig, served: Served, capacity: Capacity) -> Machine:
    """The cheapest machine that holds it. Errors: :class:`GateError` where none does."""
    fitting = [
        each
        for each in machines().values()
        if _refusal(config, served, each, CONVERSATIONS) is None
        # A pool of one's own may have a larger disk: a machine that is named is taken.
        and served.file_bytes <= of_machine(each).disk
    ]
    if not fitting:
        raise GateError(
            f"no machine that packtrain knows holds {config.model.source} in bfloat16 "
            f"({_gb(served.parameters * TYPE_SIZE)} GB) with {_wanted(config, served, CONVERSATIONS)}",
            hint="a smaller data.max_length needs less; --machine TYPE takes a machine with room for fewer",
        )

    def price(machine: Machine) -> tuple[float, int]:
        usd = price_per_hour(machine, capacity, config.cluster.location).usd
        return (float("inf") if usd is None else usd, machine.gpus)

    return min(fitting, key=price)


def check(config: RunConfig, served: Served, machine: Machine) -> None:
    """Errors: :class:`GateError` where vLLM would not start on a named machine."""
    refusal = _refusal(config, served, machine, 1)
    if refusal is not None:
        raise GateError(
            f"--machine {machine.name}: {refusal}",
            hint="without --machine the cheapest that holds it is taken",
        )


def sentence(config: RunConfig, served: Served, machine: Machine) -> str:
    """What it needs and where that is, such as ``8.0B parameters in bfloat16 16.1 GB + …``."""
    needs = room(config, served, machine)
    each = "" if machine.gpus == 1 else f" on each of {machine.gpus} GPUs"
    count = min(CONVERSATIONS, needs.conversations)
    adapter = f"adapter {_gb(needs.adapter)} GB + " if needs.adapter else ""
    told = (
        f"{served.parameters / 1e9:.1f}B parameters in bfloat16: weights {_gb(needs.weights)} GB + {adapter}"
        f"KV cache {_gb(count * needs.conversation)} GB ({_wanted(config, served, count)}) + vLLM itself "
        f"{_gb(needs.overhead)} GB{each}: {machine.name}'s {machine.gpu_name} of "
        f"{_gb(machine.gpu_memory)} GB, {UTILIZATION:.0%} of it used, holds it"
    )
    if needs.conversations > count:
        told += f", and about {needs.conversations} at once"
    return f"{told}."


def _refusal(config: RunConfig, served: Served, machine: Machine, conversations: int) -> str | None:
    """Why vLLM would not start there, or not hold so many conversations."""
    if not divides(served, machine.gpus):
        return (
            f"{served.heads} attention heads ({served.kv_heads} of keys) cannot be spread evenly over its "
            f"{machine.gpus} GPUs"
        )
    needs = room(config, served, machine)
    if needs.conversations < conversations:
        wanted = needs.weights + needs.adapter + needs.overhead + conversations * needs.conversation
        return (
            f"each {machine.gpu_name} needs {_gb(wanted)} GB for {_wanted(config, served, conversations)}, "
            f"and vLLM takes {_gb(needs.usable)} of {_gb(machine.gpu_memory)} GB"
        )
    own = served.parameters * TYPE_SIZE + machine.gpus * PROCESS
    if machine.memory < own:
        return f"loading needs {_gb(own)} GB of the machine's own memory, which is {_gb(machine.memory)} GB"
    return None


def _wanted(config: RunConfig, served: Served, conversations: int) -> str:
    length = served_length(config, served)
    return f"{conversations} conversation{'' if conversations == 1 else 's'} of {length:,} tokens"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f}"
