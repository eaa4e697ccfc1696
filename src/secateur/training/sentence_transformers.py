"""Reads how a model in the form of sentence-transformers makes its vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from secateur.errors import UnsupportedError
from secateur.tasks.sentence_embeddings import POOLING_MODES

__all__ = ["longest_text", "pooling_entry", "transformer_folder"]

_FLAG = "pooling_mode_"
_FLAGS = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}


def transformer_folder(folder: Path) -> Path:
    """Returns where the transformer itself lies: the folder, or the one that modules.json names."""
    modules = _modules(folder)
    return folder / modules[0][1] if modules else folder


def pooling_entry(folder: Path) -> dict[str, Any] | None:
    """Returns a config's `sentence_embedding` for a model in this form; None for one that is not.

    Raises:
        UnsupportedError: It has parts that the engine does not know, as a dense layer after the pooling.
    """
    modules = _modules(folder)
    if not modules:
        return None
    kinds = [kind for kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise UnsupportedError(
            f"{folder} is made of {', '.join(kinds)}; supported is Transformer, Pooling and, if any, "
            "Normalize."
        )
    settings = _read(folder / modules[1][1] / "config.json")
    chosen = [name for flag, name in _FLAGS.items() if settings.get(f"{_FLAG}{flag}")]
    others = [
        key.removeprefix("pooling_mode_")
        for key, value in settings.items()
        if key.startswith("pooling_mode_")
        and value is True
        and key.removeprefix("pooling_mode_") not in _FLAGS
    ]
    if isinstance(settings.get("pooling_mode"), str):  # how newer versions write it
        chosen, others = [settings["pooling_mode"]], []
    if len(chosen) != 1 or others or chosen[0] not in POOLING_MODES:
        raise UnsupportedError(
            f"{folder} pools by {' and '.join((*chosen, *others)) or 'nothing'}; supported is one of "
            f"{', '.join(POOLING_MODES)}."
        )
    return {"pooling": chosen[0], "normalize": "Normalize" in kinds}


def longest_text(folder: Path) -> int | None:
    """Returns how many tokens such a model was made for, None where it does not say."""
    modules = _modules(folder)
    if not modules:
        return None
    path = folder / modules[0][1] / "sentence_bert_config.json"
    found = _read(path).get("max_seq_length") if path.is_file() else None
    return found if isinstance(found, int) else None


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Returns the last word of each module's type, and its folder."""
    path = folder / "modules.json"
    if not path.is_file():
        return []
    modules = _read(path)
    try:
        return [(str(one["type"]).rpartition(".")[2], str(one.get("path", ""))) for one in modules]
    except (TypeError, KeyError, AttributeError):
        raise UnsupportedError(f"{path} is no list of modules with types: save the model again.") from None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedError(f"{path} cannot be read ({error}): copy or save the model again.") from error
