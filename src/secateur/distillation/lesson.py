"""What a teacher is asked for while a student trains."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

__all__ = ["SILENT", "Lesson"]


@dataclass(frozen=True)
class Lesson:
    """The weights of the losses, and how each is meant; the fields are those of a recipe's DistillationStage.

    A step minimizes

        outputs * ((1 - hardness) * labels' loss + hardness * distance of the outputs)
        + hidden * distance of the hidden states + embeddings * that of the embeddings' outputs
        + attention * that of the attention maps

    each a sum over items (`secateur.distillation.objectives`) divided by the items of the step.

    Attributes:
        hardness: Weight of the teacher against the labels, 0-1.
        temperature: Softens both distributions.
        outputs: Weight of what stands at the end of the model, labels and the teacher's outputs; 0 leaves
            what is within, which needs no label.
        hidden: Weight of the distance between hidden states after the layers.
        hidden_distance: How that is measured.
        embeddings: Weight of the distance between what enters the first layer.
        attention: Weight of the distance between the attention maps.
        attention_of: What is compared: scores, or the probabilities made of them.
        layer_map: See `layer_pairs`.
        tokens: Of token tags: which tokens the teacher speaks on, all of a text, or those with a label (the
            first piece of each word) only.
        vectors: Of sentence embeddings: how they are compared.
    """

    hardness: float = 1.0
    temperature: float = 2.0
    outputs: float = 1.0
    hidden: float = 0.0
    hidden_distance: Literal["mse", "cosine"] = "mse"
    embeddings: float = 0.0
    attention: float = 0.0
    attention_of: Literal["scores", "probabilities"] = "scores"
    layer_map: str | tuple[int | None, ...] = "uniform"
    tokens: Literal["all", "labelled"] = "all"
    vectors: Literal["cosine", "similarity", "both"] = "cosine"

    @classmethod
    def of(cls, stage: Any) -> Lesson:
        """Returns the lesson of a stage, or of anything that has its fields."""
        return cls(**{field.name: getattr(stage, field.name) for field in fields(cls)})

    @property
    def looks_inside(self) -> bool:
        """Whether something within the models is compared, which columns of logits do not hold."""
        return self.hidden > 0.0 or self.embeddings > 0.0 or self.attention > 0.0

    @property
    def compares_outputs(self) -> bool:
        """Whether the teacher's outputs are compared."""
        return self.outputs > 0.0 and self.hardness > 0.0

    @property
    def needs_labels(self) -> bool:
        """Whether a step cannot do without the batch's targets."""
        return self.outputs > 0.0


SILENT = Lesson(hardness=0.0, temperature=1.0)  # the labels alone
