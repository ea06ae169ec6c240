"""The tokenizer's files beside an adapter: the base's own, byte for byte, and the missing ones.

They have to open in transformers 4.57 and in 5. A base's files do, with two exceptions that come
from transformers 5: it no longer writes ``special_tokens_map.json``, and its ``tokenizer_config.json``
may name the class ``TokenizersBackend`` and keep ``extra_special_tokens`` as a list, both of which
4.57 refuses. The first is written here; the second is the one case in which a base's file is changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from packtrain.errors import ConfigError

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
SPECIALS = "special_tokens_map.json"
TEMPLATE = "chat_template.jinja"
#: Copied where the base has them. ``tokenizer.model`` and ``added_tokens.json``: older bases.
COPIED = (TOKENIZER, SETTINGS, SPECIALS, TEMPLATE, "tokenizer.model", "added_tokens.json")


def tokenizer_files(base_folder: Path, tokenizer: Any, chat_template: str | None) -> dict[str, bytes]:
    """Name and content of each tokenizer file that goes into an adapter's folder.

    ``tokenizer`` is the base's, loaded (a fast one); ``chat_template`` the one of the run file, which
    then stands in ``chat_template.jinja``: all versions take it before the one in the settings.
    Raises ConfigError for a file of the base that cannot be read.
    """
    files = {}
    for name in COPIED:
        path = base_folder / name
        if path.is_file():
            try:
                files[name] = path.read_bytes()
            except OSError as error:
                raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    if TOKENIZER not in files:
        files[TOKENIZER] = tokenizer.backend_tokenizer.to_str(pretty=True).encode()
    if SPECIALS not in files:
        files[SPECIALS] = _json(special_tokens(tokenizer))
    files[SETTINGS] = _settings(files.get(SETTINGS), tokenizer, base_folder / SETTINGS)
    template = chat_template or tokenizer.chat_template
    if chat_template is not None or (TEMPLATE not in files and isinstance(template, str)):
        files[TEMPLATE] = str(template).encode()
    return files


def special_tokens(tokenizer: Any) -> dict[str, Any]:
    """What transformers 4 writes into ``special_tokens_map.json``: each token with its flags."""
    known = {str(token): token for token in tokenizer.added_tokens_decoder.values()}

    def flags(text: str) -> Any:
        token = known.get(text)
        if token is None:
            return text
        return {
            "content": text,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
        }

    tokens: dict[str, Any] = {
        name: flags(str(text))
        for name, text in tokenizer.special_tokens_map.items()
        if isinstance(text, str) and name.endswith("_token")
    }
    extra = [flags(str(text)) for text in getattr(tokenizer, "extra_special_tokens", None) or []]
    return tokens | ({"additional_special_tokens": extra} if extra else {})


def _settings(original: bytes | None, tokenizer: Any, path: Path) -> bytes:
    if original is None:
        return _json(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": tokenizer.model_max_length,
                "clean_up_tokenization_spaces": False,
                **{name: str(text) for name, text in tokenizer.special_tokens_map.items()},
            }
        )
    try:
        settings = json.loads(original)
        extra = settings.get("extra_special_tokens")
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: is not JSON as a tokenizer has it ({error})") from error
    if settings.get("tokenizer_class") != "TokenizersBackend" and not isinstance(extra, list):
        return original
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(extra, list):
        del settings["extra_special_tokens"]
        settings["additional_special_tokens"] = extra
    return _json(settings)


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
