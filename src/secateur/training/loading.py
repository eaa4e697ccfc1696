"""Loads models from folders and asserts what transformers only warns about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from secateur.errors import DataError, StructureError, UnsupportedError
from secateur.modeling.structure import SUPPORTED_MODEL_TYPES, find_blocks
from secateur.training.arguments import quiet_transformers

__all__ = ["has_classifier", "labels_of", "load_classifier", "load_tokenizer", "require_labels"]


def load_tokenizer(folder: str | Path) -> Any:
    """Loads a folder's fast tokenizer.

    Raises:
        UnsupportedError: The folder has no tokenizer that can be saved as `tokenizer.json`.
    """
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), use_fast=True)
    except (OSError, ValueError) as error:
        raise UnsupportedError(
            f"{folder} has no tokenizer that can be loaded ({_first_line(error)}): save one beside it."
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedError(f"{folder} has only a slow tokenizer; a tokenizer.json is needed.")
    if tokenizer.pad_token_id is None:
        raise UnsupportedError(
            f"The tokenizer of {folder} has no padding token; set its pad_token and save it."
        )
    return tokenizer


def has_classifier(folder: str | Path) -> bool:
    """Says whether a folder holds a fine-tuned sequence classifier, by its config.

    Raises:
        UnsupportedError: See `_load_config`.
    """
    architectures = getattr(_load_config(folder), "architectures", None) or []
    return any(name.endswith("ForSequenceClassification") for name in architectures)


def labels_of(config: Any) -> list[str]:
    """Returns the labels of a classifier's config, in the order of its logits."""
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def require_labels(folder: str | Path, config: Any, labels: Sequence[str]) -> None:
    """Checks that a model's head knows exactly the labels of the data, in any order.

    Raises:
        DataError: It does not.
    """
    known = labels_of(config)
    lacking = sorted(set(labels) - set(known))
    extra = sorted(set(known) - set(labels))
    if not lacking and not extra:
        return
    parts = []
    if lacking:
        parts.append(f"the model does not know {_some(lacking)}")
    if extra:
        parts.append(f"the data have no rows for {_some(extra)}")
    raise DataError(
        f"The labels of {folder} ({len(known)}) and of the data ({len(labels)}) differ: {'; '.join(parts)}. "
        "Give the data the model was fine-tuned on, or a pretrained model without a head."
    )


def load_classifier(folder: str | Path, *, labels: Sequence[str] | None = None) -> Any:
    """Loads a sequence classifier.

    Args:
        folder: A folder in Hugging Face form.
        labels: None loads the fine-tuned head and accepts no missing weight. A list makes a new head with
            these labels; only weights of the head (and of the pooler) may be missing then.

    Returns:
        The model, in evaluation mode, float32.

    Raises:
        UnsupportedError: The folder cannot be loaded, or its family is not supported.
        StructureError: Weights are missing or have other shapes.
    """
    config = _load_config(folder)
    options: dict[str, Any] = {}
    if labels is not None:
        options["num_labels"] = len(labels)
        options["id2label"] = dict(enumerate(labels))
        options["label2id"] = {label: index for index, label in enumerate(labels)}
        options["ignore_mismatched_sizes"] = True
    try:
        with quiet_transformers():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                str(folder), output_loading_info=True, dtype="float32", **options
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UnsupportedError(
            f"{folder} cannot be loaded ({_first_line(error)}): copy or save it again."
        ) from error
    new = ("classifier.", "pooler.") if labels is not None else ()
    absent = set(info["missing_keys"]) | {str(key[0]) for key in info.get("mismatched_keys", ())}
    lost = sorted(key for key in absent if not any(f".{name}" in f".{key}" for name in new))
    if lost:
        raise StructureError(
            f"{folder}: {len(lost)} weights are missing or have another shape, among them {lost[0]}; "
            f"its config says {config.model_type}. Save the model again with save_pretrained."
        )
    find_blocks(model)
    return model.eval()


def _load_config(folder: str | Path) -> Any:
    if not Path(folder).is_dir():
        raise UnsupportedError(f"{folder} is not a folder; give a model folder in Hugging Face form.")
    try:
        config = AutoConfig.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise UnsupportedError(
            f"{folder} is no model folder ({_first_line(error)}): give one in Hugging Face form."
        ) from error
    if config.model_type not in SUPPORTED_MODEL_TYPES:
        raise UnsupportedError(
            f"{folder} is of the family {config.model_type!r}; supported: {', '.join(SUPPORTED_MODEL_TYPES)}."
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedError(f"{folder} is quantized already; compress the float model it was made from.")
    return config


def _some(labels: Sequence[str]) -> str:
    shown = ", ".join(repr(label) for label in labels[:3])
    return shown if len(labels) <= 3 else f"{shown} and {len(labels) - 3} more"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
