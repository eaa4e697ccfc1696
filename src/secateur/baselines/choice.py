"""Which simple baselines a task has."""

from __future__ import annotations

from secateur.baselines.baseline import Baseline
from secateur.baselines.similarity import TfidfCosine
from secateur.baselines.tfidf import TfidfLinear
from secateur.baselines.words import FrequentTag, WordFeatures
from secateur.errors import UnsupportedError
from secateur.tasks import Task
from secateur.tasks.text_classification import TextClassification

__all__ = ["baselines_of"]

_WITH_ONE = "text-classification, token-classification, sentence-embeddings"


def baselines_of(task: Task, seed: int = 42) -> list[Baseline]:
    """Makes the baselines of a task, the strongest last.

    Args:
        task: The task of the data.
        seed: Of everything random.

    Raises:
        UnsupportedError: The task has none.
    """
    if isinstance(task, TextClassification):
        return [TfidfLinear(task, seed)]
    if task.name == "token-classification":
        return [FrequentTag(task), WordFeatures(task, seed)]
    if task.name == "sentence-embeddings":
        if not task.main_metric:
            raise UnsupportedError(
                "Texts without a pair or a similarity cannot be scored: give data with text_pair."
            )
        return [TfidfCosine(task)]
    raise UnsupportedError(
        f"{task.name} has no simple baseline: words and weights alone do not answer it ({_WITH_ONE} have "
        f"one); --half-depth --model FOLDER gives a smaller network to compare with."
    )
