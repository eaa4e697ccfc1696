"""Exact match and F1 of answers, as the official scripts of SQuAD count them.

Source: the evaluation scripts of SQuAD v1.1 and v2.0 (normalize_answer, compute_f1, find_best_thresh).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["answer_f1", "normalized_answer", "squad_scores", "squad_v2_scores"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized_answer(text: str) -> str:
    """Returns a text in lower case, without ASCII punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_f1(given: str, right: str, *, empty_counts: bool = False) -> float:
    """Returns the F1 of the words of two texts, counted with their multiplicity; 0 where none is shared.

    Args:
        given: The answer.
        right: A reference.
        empty_counts: Whether two texts without words agree, as in SQuAD v2.
    """
    one, two = normalized_answer(given).split(), normalized_answer(right).split()
    if empty_counts and not (one and two):
        return float(one == two)
    shared = sum((Counter(one) & Counter(two)).values())
    return 2 * shared / (len(one) + len(two)) if shared else 0.0


def squad_scores(given: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Scores answers where every question has one.

    Args:
        given: [n] answers, n > 0.
        references: [n] at least one right answer each; the best counts.

    Returns:
        `exact_match` and `f1`, fractions, and `n`.
    """
    exact, f1 = [], []
    for answer, right in zip(given, references, strict=True):
        exact.append(max(normalized_answer(answer) == normalized_answer(one) for one in right))
        f1.append(max(answer_f1(answer, one) for one in right))
    return {"exact_match": float(np.mean(exact)), "f1": float(np.mean(f1)), "n": len(given)}


def squad_v2_scores(
    given: Sequence[str],
    references: Sequence[Sequence[str]],
    null_scores: Sequence[float],
    threshold: float,
) -> dict[str, Any]:
    """Scores answers where some questions have none.

    Args:
        given: [n] best answers that are no refusals, n > 0.
        references: [n] right answers; none where the question has no answer.
        null_scores: [n] how much surer the model is that there is no answer; a question is refused above the
            threshold.
        threshold: Where questions are refused.

    Returns:
        `exact_match` and `f1`; `has_answer_exact`, `has_answer_f1`, `no_answer_accuracy` (each where there
        are such questions); `best_exact`, `best_f1` and their thresholds, the best that any threshold
        reaches; `n` and `n_no_answer`. Fractions.
    """
    exact, f1 = [], []
    for answer, right in zip(given, references, strict=True):
        known = [one for one in right if normalized_answer(one)] or [""]
        exact.append(float(max(normalized_answer(answer) == normalized_answer(one) for one in known)))
        f1.append(max(answer_f1(answer, one, empty_counts=True) for one in known))
    answerable = np.array([bool(right) for right in references])
    nulls = np.asarray(null_scores, np.float64)
    refused = nulls > threshold
    result: dict[str, Any] = {}
    for name, values in (("exact", np.array(exact)), ("f1", np.array(f1))):
        reached = np.where(refused, ~answerable, values)
        result["exact_match" if name == "exact" else name] = float(reached.mean())
        if answerable.any():
            result[f"has_answer_{name}"] = float(reached[answerable].mean())
        best, best_threshold = _best(values, nulls, answerable)
        result |= {f"best_{name}": best, f"best_{name}_threshold": best_threshold}
    if not answerable.all():
        result["no_answer_accuracy"] = float(refused[~answerable].mean())
    return {**result, "n": len(given), "n_no_answer": int((~answerable).sum())}


def _best(values: Any, nulls: Any, answerable: Any) -> tuple[float, float]:
    """Returns the best mean that a threshold on the null scores reaches, and that threshold.

    Questions are answered in the order of their null scores; equal ones are answered together.
    """
    order = np.argsort(nulls, kind="stable")
    gains = np.where(answerable, values, -1.0)[order]  # against refusing everything
    sums = np.concatenate([[0.0], np.cumsum(gains)])
    sorted_nulls = nulls[order]
    last = np.concatenate([[True], np.append(sorted_nulls[1:] != sorted_nulls[:-1], True)])
    sums = np.where(last, sums, -np.inf)
    place = int(sums.argmax())
    threshold = float(sorted_nulls[place - 1]) if place else float(np.nextafter(sorted_nulls[0], -np.inf))
    return float((sums[place] + (~answerable).sum()) / len(values)), threshold
