"""``packtrain export``: an adapter as a whole model, for programs that take no adapters."""

from __future__ import annotations

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from packtrain.cli.arguments import Adapter, Base
from packtrain.cli.output import note, print_json

if TYPE_CHECKING:
    from packtrain.artifacts.export import GgufFile
    from packtrain.artifacts.locate import LocatedAdapter
    from packtrain.artifacts.merge import MergedModel


class Type(StrEnum):
    """Numbers of the matrices in a GGUF file."""

    f16 = "f16"
    q8_0 = "q8_0"


def export(
    adapter: Adapter,
    base: Base = None,
    merged: Annotated[
        Path | None,
        typer.Option("--merged", metavar="DIR", help="Write base and adapter as one model, in safetensors."),
    ] = None,
    gguf: Annotated[
        Path | None, typer.Option("--gguf", metavar="FILE", help="Write them as a file for llama.cpp.")
    ] = None,
    ollama: Annotated[
        Path | None, typer.Option("--ollama", metavar="DIR", help="Write a folder for `ollama create`.")
    ] = None,
    type: Annotated[Type, typer.Option("--type", help="Of the numbers in a GGUF file.")] = Type.f16,
    vllm: Annotated[
        bool, typer.Option("--vllm", help="Say whether vLLM serves the adapter as it is, and if not, why.")
    ] = False,
    max_lora_rank: Annotated[
        int | None, typer.Option("--max-lora-rank", min=1, help="With --vllm: the server's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Bring an adapter into the form that other programs take, and check what came out."""
    from packtrain.artifacts.locate import locate
    from packtrain.errors import UsageError

    if not (merged or gguf or ollama or vllm):
        raise UsageError("nothing to export to", hint="--merged DIR, --gguf FILE, --ollama DIR or --vllm")
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="packtrain-export-") as folder:
        located = locate(adapter, Path(folder) / "adapter")
        for warning in located.warnings:
            note(f"warning: {warning}")
        if vllm:
            told["vllm"] = _check_vllm(located, max_lora_rank)
        if merged or gguf or ollama:
            told |= _write(located, base, merged, gguf, ollama, type)
    if as_json:
        print_json(told)
        return
    for each in told.values():
        typer.echo(each["sentence"])


def _check_vllm(located: LocatedAdapter, max_rank: int | None) -> dict[str, Any]:
    from packtrain.artifacts.vllm import refusals, to_serve
    from packtrain.errors import GateError

    if located.full:
        return {"sentence": "vLLM serves a whole model as it is."}
    reasons = refusals(located.folder, max_rank)
    if reasons:
        raise GateError(
            f"{located.folder}: vLLM would refuse this adapter: " + "; ".join(reasons),
            hint="--merged DIR makes a whole model of it, which vLLM serves",
        )
    option = to_serve(located.folder)
    return {"sentence": f"vLLM serves this adapter as it is: {option}", "option": option}


def _write(
    located: LocatedAdapter,
    base: str | None,
    merged: Path | None,
    gguf: Path | None,
    ollama: Path | None,
    type: Type,
) -> dict[str, Any]:
    from packtrain.run.heavy import heavy_imports

    with heavy_imports():
        from packtrain.artifacts.export import export_gguf, export_merged, export_ollama

    told: dict[str, Any] = {}
    if merged:
        told["merged"] = _of_merged(export_merged(located, base, merged, say=note))
    if gguf:
        told["gguf"] = _of_gguf(export_gguf(located, base, gguf, type.value, say=note))
    if ollama:
        made, has_template = export_ollama(located, base, ollama, type.value, say=note)
        if not has_template:
            note(
                "warning: the chat template cannot be said in Go's language, so that the Modelfile has none; "
                "write one, or use the GGUF file with llama.cpp, which reads the template in it"
            )
        told["ollama"] = _of_gguf(made) | {
            "sentence": f"ollama create NAME -f {made.path.parent / 'Modelfile'}"
        }
    return told


def _of_merged(made: MergedModel) -> dict[str, Any]:
    check = made.check
    if check.warning:
        note(f"warning: {check.warning}")
    if check.base_drift is not None:
        note(
            f"the base's weights are those of the training in 4 bits: {check.base_drift:.2g} of their size "
            "(RMS) away from the base's own"
        )
    return {
        "folder": str(made.folder),
        "files": list(made.files),
        "bytes": made.bytes,
        "logit_error": check.logit_error,
        "tolerance": check.tolerance,
        "effect": check.effect,
        "base_drift": check.base_drift,
        "sentence": f"The merged model is in {made.folder} ({made.bytes / 1e9:.2f} GB). {check.sentence}",
    }


def _of_gguf(made: GgufFile) -> dict[str, Any]:
    return {
        "path": str(made.path),
        "bytes": made.bytes,
        "logit_error": made.logit_error,
        "tolerance": made.tolerance,
        "sentence": f"The model is in {made.path} ({made.bytes / 1e9:.2f} GB). Its logits differ from those "
        f"of base and adapter by at most {made.logit_error:.2g} of their size ({made.tolerance:.2g} is "
        "allowed).",
    }
