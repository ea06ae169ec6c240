"""A tokenizer's chat templates by name, made independent of the day on which they render."""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING

from packtrain.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: What templates that print "today" print, so that tokens do not depend on the day. Llama 3.1's own default.
TODAY = datetime.date(2024, 7, 26)
_STRFTIME_NOW = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")


def named_templates(tokenizer: PreTrainedTokenizerBase, template: str | None) -> dict[str, str]:
    """By name, ``default`` among them; ``template`` in place of the tokenizer's own; empty if none.

    Errors: ConfigError for a tokenizer with several and no default.
    """
    own = tokenizer.chat_template if template is None else template
    named = own if isinstance(own, dict) else {} if own is None else {"default": own}
    if named and "default" not in named:
        raise ConfigError(
            f"model.chat_template: the tokenizer has the templates {', '.join(sorted(named))} and no default",
            hint="set model.chat_template to the one to use",
        )
    # `strftime_now` would make other tokens tomorrow, and a resumed run another run.
    return {name: _STRFTIME_NOW.sub(_today, text) for name, text in named.items()}


def _today(call: re.Match[str]) -> str:
    quote, layout = call.groups()
    return f"{quote}{TODAY.strftime(layout)}{quote}"
