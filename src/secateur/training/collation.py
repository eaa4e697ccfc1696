"""Which collator a task's training needs: plain, with altered rows, or with masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secateur.recipe.recipe import DistillationStage, Recipe
from secateur.tasks import FillMask, Task
from secateur.training.augmentation import AugmentingPadder
from secateur.training.encoding import Features, Padder, encode_rows, pad_token_of, takes_token_types
from secateur.training.masking import MaskingPadder

__all__ = ["alters_rows", "can_be_altered", "padder_for", "training_features", "without_altered_rows"]


def training_features(
    tokenizer: Any, task: Task, rows: Sequence[Any], max_length: int, network: Any
) -> Features:
    """Encodes rows to train on: with their targets, or whole where masks come later.

    Raises:
        DataError: A row's label is not known, or a text cannot be tokenized.
    """
    if isinstance(task, FillMask):
        chunks = task.chunks(tokenizer.backend_tokenizer, rows, max_length)
        return Features(chunks, [{}] * len(chunks), token_types=takes_token_types(network))
    return encode_rows(tokenizer, task, rows, max_length, network)


def padder_for(
    tokenizer: Any, task: Task, network: Any, features: Features, recipe: Recipe | None, seed: int
) -> Padder:
    """Makes the collator.

    Args:
        tokenizer: A transformers tokenizer.
        task: The task.
        network: The model.
        features: What it will collate.
        recipe: Says how many rows are altered; None alters none.
        seed: Seeds masks and alterations.
    """
    pad = pad_token_of(network)
    if task.head == "masked":
        return MaskingPadder(tokenizer, pad, seed)
    distillation = None if recipe is None else recipe.stage(DistillationStage)
    if distillation is None or distillation.augmentation == 0.0:
        return Padder(pad)
    words = sorted(place for token, place in tokenizer.get_vocab().items() if token.isalpha())
    return AugmentingPadder(pad, features, words, tokenizer.all_special_ids, distillation.augmentation, seed)


def alters_rows(recipe: Recipe) -> bool:
    """Says whether a recipe alters rows, always or where there are few."""
    few = recipe.small_data is not None and recipe.small_data.augmentation
    return bool(few) or any(stage.augmentation > 0.0 for stage in recipe.stages_of(DistillationStage))


def can_be_altered(task: Task, rows: Sequence[Any]) -> bool:
    """Says whether altered rows still are rows of a task: each must be one text that stands for itself.

    A span from elsewhere breaks what holds a pair, a question and its answer, or the words of an entity
    together, and a masked word is asked for by what stands around it.
    """
    if task.head not in ("sequence", "embedding"):
        return False
    return task.head == "embedding" or not any(getattr(row, "text_pair", None) for row in rows)


def without_altered_rows(recipe: Recipe) -> Recipe:
    """Returns a recipe that alters no rows."""
    values = recipe.model_dump()
    for record in (*values["stages"], values["small_data"] or {}):
        if record.get("augmentation"):
            record["augmentation"] = 0.0
    return Recipe.model_validate(values)
