"""A model's frame, built without what only its numbers need: they are read from files afterwards.

transformers builds it on the device "meta", where PyTorch draws initial values that nobody keeps, and does
arithmetic in Python, for which it imports its compiler and sympy: as long as the first step of a small model
takes. transformers makes anew whatever no file has, such as rotary frequencies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Frame(TorchFunctionMode):
    """In this context ``torch.nn.init`` leaves tensors on "meta" as they are, and ``torch.arange`` makes its
    numbers on the CPU, with all that is computed from them alone."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__module__", None) == torch.nn.init.__name__:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        if func is torch.arange and torch.device(kwargs.get("device") or "cpu").type == "meta":
            return func(*args, **kwargs | {"device": "cpu"})
        if any(tensor.is_meta for tensor in _tensors((args, kwargs))):
            args, kwargs = _on_meta(args), _on_meta(kwargs)
        return func(*args, **kwargs)


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    return (
        [tensor for each in values for tensor in _tensors(each)] if isinstance(values, list | tuple) else []
    )


def _on_meta(values: Any) -> Any:
    """With numbers beside shapes only shapes come out."""
    if isinstance(values, Tensor) and not isinstance(values, torch.nn.Parameter):
        return values.to("meta")
    if isinstance(values, dict):
        return {name: _on_meta(each) for name, each in values.items()}
    return type(values)(map(_on_meta, values)) if type(values) in {list, tuple} else values
