"""Labels in a model's config.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.errors import UnsupportedError

__all__ = ["label_config", "labels_of_config"]


def label_config(labels: Sequence[str]) -> dict[str, Any]:
    """Returns `id2label` and `label2id` for labels in the order of the logits."""
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: place for place, label in enumerate(labels)},
    }


def labels_of_config(config: Mapping[str, Any]) -> list[str]:
    """Returns the labels of a config in the order of the logits.

    A config without `id2label` has the two labels that transformers gives it.

    Raises:
        UnsupportedError: `id2label` does not number its labels from 0 on.
    """
    given = config.get("id2label")
    if given is None:
        return [f"LABEL_{place}" for place in range(int(config.get("num_labels") or 2))]
    try:
        numbered = {int(place): str(label) for place, label in dict(given).items()}
    except (TypeError, ValueError):
        numbered = {}
    if not numbered or sorted(numbered) != list(range(len(numbered))):
        raise UnsupportedError("The config's id2label must number the labels from 0 on.")
    return [numbered[place] for place in range(len(numbered))]
