"""The tokenizer that lies beside a checkpoint, and what its settings say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from secateur.checkpoint.folder import TOKENIZER_FILE
from secateur.errors import CheckpointError

__all__ = ["load_tokenizer", "longest_text", "unknown_token_id"]

_SETTINGS = "tokenizer_config.json"
_LEAST = 8  # a smaller length is no setting that a user can mean


def load_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """Loads the tokenizer of a checkpoint, without padding or truncation.

    Args:
        folder: The checkpoint.
        vocab_size: How many token ids its model knows.

    Raises:
        CheckpointError: There is none, or it is another model's.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {TOKENIZER_FILE}: copy the whole folder.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise CheckpointError(f"{path} is not a sound tokenizer ({error}): copy the folder again.") from None
    count = tokenizer.get_vocab_size(with_added_tokens=True)
    if count > vocab_size:
        raise CheckpointError(
            f"{path} has {count} tokens and the model only {vocab_size}: "
            f"the folder mixes the files of two models."
        )
    # all-MiniLM's own file pads and truncates to 128 tokens; tasks cut by themselves
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def longest_text(folder: Path, max_length: int) -> int:
    """Returns how many tokens a text may have: what the model takes, or less where the settings say so.

    Args:
        folder: The checkpoint.
        max_length: What the model takes.
    """
    said = _settings(folder).get("model_max_length")
    if isinstance(said, int) and not isinstance(said, bool) and _LEAST <= said < max_length:
        return said
    return max_length


def unknown_token_id(folder: Path, tokenizer: Tokenizer) -> int | None:
    """Returns the token that stands for an unknown word, None where there is none.

    Args:
        folder: The checkpoint; its settings are believed where they name the token.
        tokenizer: Its tokenizer.
    """
    named = _settings(folder).get("unk_token")
    if isinstance(named, dict):
        named = named.get("content")
    for name in (named, "[UNK]", "<unk>"):
        found = tokenizer.token_to_id(name) if isinstance(name, str) else None
        if found is not None:
            return int(found)
    return None


def _settings(folder: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((folder / _SETTINGS).read_bytes())
    except (OSError, ValueError):
        return {}  # a checkpoint need not have that file
    return found if isinstance(found, dict) else {}
