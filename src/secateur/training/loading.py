"""Loads models from folders and asserts what transformers only warns about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from secateur.errors import DataError, StructureError, UnsupportedError
from secateur.modeling.structure import SUPPORTED_MODEL_TYPES, find_blocks
from secateur.tasks import SentenceEmbeddings, Task
from secateur.training.arguments import quiet_transformers
from secateur.training.sentence_transformers import longest_text, pooling_entry, transformer_folder

__all__ = ["agreed_task", "has_head", "load_network", "load_tokenizer", "model_task", "read_config"]


def load_tokenizer(folder: str | Path, *, embeddings: bool = False) -> Any:
    """Loads a folder's fast tokenizer.

    Args:
        folder: The model.
        embeddings: Holds to the length that a sentence-transformers model was made for.

    Raises:
        UnsupportedError: The folder has no tokenizer that can be saved as `tokenizer.json`.
    """
    inner = transformer_folder(Path(folder))
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(str(inner), use_fast=True)
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
    longest = longest_text(Path(folder)) if embeddings else None
    if longest is not None:
        tokenizer.model_max_length = min(longest, tokenizer.model_max_length)
    return tokenizer


def read_config(folder: str | Path) -> Any:
    """Loads a float model's config; of a sentence-transformers model with its pooling in it.

    Raises:
        UnsupportedError: There is none, its family is not supported, or the model is quantized already.
    """
    if not Path(folder).is_dir():
        raise UnsupportedError(f"{folder} is not a folder; give a model folder in Hugging Face form.")
    entry = pooling_entry(Path(folder))
    try:
        config = AutoConfig.from_pretrained(str(transformer_folder(Path(folder))))
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
    if entry is not None:
        config.sentence_embedding = entry
    return config


def has_head(folder: str | Path, task: type[Task]) -> bool:
    """Says whether a folder holds a model that can do a task as it is, by its config.

    Sentence embeddings need no head: every encoder gives them.

    Raises:
        UnsupportedError: See `read_config`.
    """
    config = read_config(folder)
    if task.head == "embedding":
        return True
    return any(name.endswith(task.class_suffix()) for name in getattr(config, "architectures", None) or [])


def model_task(folder: str | Path, task: type[Task]) -> Task:
    """Returns the task as a folder's config describes it.

    Raises:
        UnsupportedError: See `read_config`; or the config does not describe this task.
    """
    return task.from_config(read_config(folder).to_dict())


def agreed_task(folder: str | Path, task: Task, name: str = "the data") -> Task:
    """Returns the task as a model with a head does it, where it does what the data need.

    Args:
        folder: The model.
        task: As the data have it: labels in any order.
        name: What to call the data.

    Raises:
        DataError: Kinds or labels differ. A label of which the data have no rows is refused only where each
            row has exactly one of them.
    """
    known = model_task(folder, type(task))
    if isinstance(known, SentenceEmbeddings):
        return SentenceEmbeddings(task.kind, pooling=known.pooling, normalize=known.normalize)
    if not task.labels and not known.labels and task.kind == known.kind != "regression":
        return task
    if known.kind != task.kind:
        raise DataError(
            f"The head of {folder} is of the kind {known.kind!r}, {name} of the kind {task.kind!r}: give "
            "the data the model was fine-tuned on, or a pretrained model without a head."
        )
    lacking = sorted(set(task.labels) - set(known.labels))
    extra = sorted(set(known.labels) - set(task.labels))
    strict = task.head == "sequence" and task.kind != "multi-label"
    if task.kind == "regression" or not (lacking or (extra and strict)):
        return known
    parts = []
    if lacking:
        parts.append(f"the model does not know {_some(lacking)}")
    if extra:
        parts.append(f"{name} have no rows for {_some(extra)}")
    raise DataError(
        f"The labels of {folder} ({len(known.labels)}) and of {name} ({len(task.labels)}) differ: "
        f"{'; '.join(parts)}. "
        "Give the data the model was fine-tuned on, or a pretrained model without a head."
    )


def load_network(folder: str | Path, task: Task, *, new_head: bool = False) -> Any:
    """Loads a model for a task.

    Args:
        folder: A folder in Hugging Face form, or in that of sentence-transformers.
        task: What it shall do; its `config` becomes the model's.
        new_head: Makes a new head; only weights of the head (and of the pooler) may be missing then. False
            accepts no missing weight, but those of a pooler that embeddings do not use.

    Returns:
        The model, in evaluation mode, float32.

    Raises:
        UnsupportedError: The folder cannot be loaded, or its family is not supported.
        StructureError: Weights are missing or have other shapes.
    """
    config = read_config(folder)
    for name, value in task.config().items():
        setattr(config, name, value)
    loader = getattr(transformers, task.auto_class)
    with _explained(folder), quiet_transformers():
        network, info = loader.from_pretrained(
            str(transformer_folder(Path(folder))),
            config=config,
            output_loading_info=True,
            dtype="float32",
            ignore_mismatched_sizes=new_head,
        )
    absent = set(info["missing_keys"]) | {str(key[0]) for key in info.get("mismatched_keys", ())}
    new = _new_parts(network, new_head)
    lost = sorted(key for key in absent if not key.startswith(new))
    if lost:
        raise StructureError(
            f"{folder}: {len(lost)} weights are missing or have another shape, among them {lost[0]}; "
            f"its config says {config.model_type}. Save the model again with save_pretrained."
        )
    find_blocks(network)
    if task.head == "embedding" and getattr(network, "pooler", None) is not None:
        network.pooler.requires_grad_(False)  # no embedding goes through it
    return network.eval()


def _new_parts(network: Any, new_head: bool) -> tuple[str, ...]:
    """Returns how the names of weights begin that may be missing: the head's, and the pooler's."""
    if network.base_model is network:
        return ("pooler.",)
    if not new_head:
        return ()
    encoder = network.base_model_prefix
    heads = (f"{name}." for name, _ in network.named_children() if name != encoder)
    return (*heads, f"{encoder}.pooler.")


@contextmanager
def _explained(folder: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UnsupportedError(
            f"{folder} cannot be loaded ({_first_line(error)}): copy or save it again."
        ) from error


def _some(labels: Sequence[str]) -> str:
    shown = ", ".join(repr(label) for label in labels[:3])
    return shown if len(labels) <= 3 else f"{shown} and {len(labels) - 3} more"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
