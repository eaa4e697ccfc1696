"""Which token of a tokenizer stands for a masked or an unknown word; tokenizer.json alone does not say."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer

__all__ = ["special_token_id"]

_USUAL = {"mask": ("[MASK]", "<mask>"), "unk": ("[UNK]", "<unk>")}


def special_token_id(folder: Path, tokenizer: Tokenizer, role: str) -> int | None:
    """Finds a special token.

    Args:
        folder: Where the tokenizer's files lie; tokenizer_config.json is believed where it names the token.
        tokenizer: The tokenizer.
        role: mask or unk.

    Returns:
        Its id; None where the tokenizer has none.
    """
    for name in (_named(folder, role), *_USUAL[role]):
        found = None if name is None else tokenizer.token_to_id(name)
        if found is not None:
            return int(found)
    return None


def _named(folder: Path, role: str) -> str | None:
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return None  # a checkpoint need not have that file
    token = settings.get(f"{role}_token") if isinstance(settings, dict) else None
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
