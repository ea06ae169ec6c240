"""An adapter's folder opened by plain peft, as anybody else would open it, without its noise."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from packtrain.errors import StorageError
from packtrain.model.quiet import quiet_transformers
from packtrain.own import not_there

# Where it is installed, peft imports it, and it says that a kernel of the hub's, which nothing here uses,
# is not there.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def open_with_peft(base: Any, folder: Path) -> Any:
    """``PeftModel`` of the adapter in ``folder`` on ``base``, in eval mode; ``base`` is changed in place.

    Raises StorageError, in one line, where peft cannot load it.
    """
    import torch.distributed.tensor  # noqa: F401  (peft looks into it, and leaves importing it to others)

    # With bitsandbytes peft imports PyTorch's compiler, for two seconds; a base in 4 bits has imported both.
    with not_there("bitsandbytes"):
        from peft import PeftModel

    try:
        with quiet_transformers(), not_there("bitsandbytes"), warnings.catch_warnings():
            # peft and transformers warn each other's users of what the two rename.
            warnings.simplefilter("ignore", FutureWarning)
            model = PeftModel.from_pretrained(base, str(folder))
    # A damaged file makes peft, safetensors and json raise whatever they please.
    except Exception as error:
        sentence = " ".join(str(error).split())[:300]
        raise StorageError(
            f"{folder}: peft cannot load the adapter: {sentence}",
            hint="its files are damaged, or it is an adapter for another base",
        ) from error
    return model.eval()
