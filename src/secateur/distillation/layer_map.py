"""Which layer of its teacher each layer of a student learns from."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.errors import RecipeError

__all__ = ["layer_pairs"]


def layer_pairs(
    layer_map: str | Sequence[int | None], student_layers: int, teacher_layers: int
) -> list[tuple[int, int]]:
    """Returns the layers that are compared.

    Args:
        layer_map: `uniform` spreads the student's layers over the teacher's, the last learning from the last;
            `last` pairs them from the top down; or, for each layer of the student, the number of a layer of
            the teacher, None for a layer that is not compared. Numbers count from 0.
        student_layers: How many the student has.
        teacher_layers: How many the teacher has.

    Returns:
        Pairs (student's, teacher's), ascending in the student's. With as many layers each learns from its
        own, by either word.

    Raises:
        RecipeError: The map does not fit the two models.

    Source:
        Jiao et al., "TinyBERT" (2020), section 3: g(m) = m N / M, rounded up where that is no whole number;
        `last` is the PKD-last of Sun et al., "Patient Knowledge Distillation" (2019), with the last layer.
    """
    if isinstance(layer_map, str):
        if student_layers > teacher_layers:
            raise RecipeError(
                f"The student has {student_layers} layers and the teacher {teacher_layers}, so layer_map "
                f"{layer_map!r} has none for some: give a list of {student_layers} layers of the "
                f"teacher, 0 to {teacher_layers - 1}."
            )
        if layer_map == "last":
            return [(layer, layer + teacher_layers - student_layers) for layer in range(student_layers)]
        return [
            (layer, -(-(layer + 1) * teacher_layers // student_layers) - 1) for layer in range(student_layers)
        ]
    if len(layer_map) != student_layers:
        raise RecipeError(
            f"layer_map names {len(layer_map)} layers, but the student has {student_layers}: give one layer "
            "of the teacher, or null, for each."
        )
    for layer, other in enumerate(layer_map):
        if other is not None and not 0 <= other < teacher_layers:
            raise RecipeError(
                f"layer_map lets layer {layer} of the student learn from layer {other}, but the teacher has "
                f"the layers 0 to {teacher_layers - 1}."
            )
    return [(layer, other) for layer, other in enumerate(layer_map) if other is not None]
