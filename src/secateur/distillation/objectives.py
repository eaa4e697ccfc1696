"""What a model is trained for: the loss of each head against its labels, and its distance from a teacher.

Every sum runs over *items*, the things that a head is asked for: rows, tokens with a label, masked tokens.
A step divides by the items in all its batches. Trainers count them in `labels`, which agrees where there are
such:

    single label      rows (labels (B,), not -100)
    multi-label       answers (labels (B, L) float): B * L, as the mean of the stock loss
    regression        values (labels (B,) float)
    tokens            tokens with a label (labels (B, S), not -100)
    masked LM         masked tokens (labels (B, S), not -100)
    question answering, sentence embeddings   rows; there are no `labels`, so a Trainer counts nothing

Where it counts nothing, it averages the batches of a step, which is wrong if the last one is shorter:
`CompressionCallback.connect_` lets it ask the objective instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from secateur.distillation.lesson import Lesson
from secateur.distillation.losses import (
    cosine_distance,
    sigmoid_divergence,
    similarity_distance,
    softmax_divergence,
)
from secateur.errors import DataError, UnsupportedError
from secateur.modeling.pooling import Pooling
from secateur.tasks.task import IGNORED

__all__ = ["HEADS", "Objective", "head_of", "objective_of", "require_targets"]

Batch = Mapping[str, Any]

# The end of a class's name, and what such a model is called in messages.
HEADS = {
    "ForSequenceClassification": "a text classifier",
    "ForTokenClassification": "a token classifier",
    "ForQuestionAnswering": "a question answering model",
    "ForMaskedLM": "a masked language model",
    "Model": "a model of sentence embeddings",
}


class Objective(ABC):
    """One kind of head. `batch` is what a model's forward was given, with its targets."""

    targets: ClassVar[tuple[str, ...]] = ("labels",)
    has_labels: ClassVar[bool] = True
    masked: ClassVar[bool] = False  # asks for the tokens that have a label only

    @abstractmethod
    def items(self, batch: Batch) -> Tensor:
        """Returns (B,) how many items each row has."""

    def outputs(self, output: Any, batch: Batch) -> Tensor:
        """Returns what losses are computed of, from a model's output; a teacher's is kept in this form."""
        return _logits(output)

    @abstractmethod
    def labels_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Returns the loss against the labels, summed over the items; scalar float32."""

    @abstractmethod
    def distance(self, student: Tensor, teacher: Tensor, batch: Batch, lesson: Lesson) -> Tensor:
        """Returns the distance from the teacher, summed over the items; scalar float32."""

    def comparable(self, student: Tensor, teacher: Tensor, lesson: Lesson) -> bool:
        """Says whether outputs of both have shapes that `distance` can compare."""
        return bool(student.shape == teacher.shape)


class SingleLabel(Objective):
    """One of several labels a text: cross entropy; T**2 * KL of the softened distributions."""

    def items(self, batch: Batch) -> Tensor:
        """One item a row whose label is not ignored."""
        labels: Tensor = batch["labels"]
        if labels.dtype != torch.long:
            raise DataError(
                f"A model with one label a text needs integer labels, but the batch has {labels.dtype}: give "
                "label ids, or set problem_type in the model's config."
            )
        return labels.reshape(-1) != IGNORED

    def labels_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross entropy."""
        return _cross_entropy(outputs, batch["labels"].reshape(-1))

    def distance(self, student: Tensor, teacher: Tensor, batch: Batch, lesson: Lesson) -> Tensor:
        """Divergence of the rows that have a label."""
        return (softmax_divergence(student, teacher, lesson.temperature) * self.items(batch)).sum()


class MultiLabel(Objective):
    """Several labels a text, each yes or no: binary cross entropy; the same against the teacher's sigmoid."""

    def items(self, batch: Batch) -> Tensor:
        """One item a row and label."""
        labels: Tensor = batch["labels"]
        if labels.ndim != 2 or not labels.is_floating_point():
            raise DataError(
                f"A model with several labels a text needs labels (B, L) of 0.0 and 1.0, but the batch has "
                f"{tuple(labels.shape)} {labels.dtype}."
            )
        return torch.full((len(labels),), labels.shape[1], device=labels.device)

    def labels_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Binary cross entropy of every answer."""
        return functional.binary_cross_entropy_with_logits(
            outputs.float(), batch["labels"].float(), reduction="sum"
        )

    def distance(self, student: Tensor, teacher: Tensor, batch: Batch, lesson: Lesson) -> Tensor:
        """Divergence of every answer."""
        return sigmoid_divergence(student, teacher, lesson.temperature).sum()


class Regression(Objective):
    """Values: squared error, against the labels and against the teacher; a temperature means nothing."""

    def items(self, batch: Batch) -> Tensor:
        """One item a value."""
        labels: Tensor = batch["labels"]
        return torch.full((len(labels),), labels[0].numel(), device=labels.device)

    def labels_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Squared error."""
        labels: Tensor = batch["labels"].reshape(outputs.shape)
        return (outputs.float() - labels.float()).square().sum()

    def distance(self, student: Tensor, teacher: Tensor, batch: Batch, lesson: Lesson) -> Tensor:
        """Squared error."""
        return (student.float() - teacher.detach().float()).square().sum()


class Tokens(Objective):
    """A label for each word: cross entropy over the tokens that carry one.

    The teacher speaks on all tokens of a text, not only on those: answers that join the pieces of a word
    read the others too, and no label tells them apart from noise. A row weighs as much as against its labels:
    the mean over its tokens times the number of its labelled ones. A lesson may hold the teacher to the
    tokens with a label instead.
    """

    def items(self, batch: Batch) -> Tensor:
        """One item a token with a label."""
        labels: Tensor = batch["labels"]
        return (labels != IGNORED).sum(-1)

    def labels_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross entropy of the tokens with a label."""
        return _cross_entropy(outputs.flatten(0, 1), batch["labels"].reshape(-1))

    def distance(self, student: Tensor, teacher: Tensor, batch: Batch, lesson: Lesson) -> Tensor:
        """Divergence of all real tokens, each row as often as it has labels; or of those with a label."""
        apart = softmax_divergence(student, teacher, lesson.temperature)  # (B, S)
        if lesson.tokens == "labelled":
            return (apart * (batch["labels"] != IGNORED)).sum()
        real = _real(batch, student)
        rows = (apart * real).sum(-1) / real.sum(-1).clamp(min=1)
        return (rows * self.items(batch)).sum()


class Spans(Objective):
    """Start and end of an answer: cross entropy as the stock loss; the teacher's over real tokens only.

    The stock loss lets padding take part in the softmax, and so does this; where nobody compares, padding is
    left out, as it is when the model runs.
    """

    targets = ("start_positions", "end_positions")

    def items(self, batch: Batch) -> Tensor:
        """One item a row; none where the start lies outside, as in stock losses."""
        starts: Tensor = batch["start_positions"].reshape(-1)
        return starts.clamp(min=0) < _length(batch)

    def outputs(self, output: Any, batch: Batch) -> Tensor:
        """Returns (B, S, 2): start and end."""
        start, end = getattr(output, "start_logits", None), getattr(output, "end_logits", None)
        if start is None or end is None:
            raise DataError("The model must return start_logits and end_logits of an answer.")
        return torch.stack((start, end), dim=-1)

    def labels_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Half of the cross entropies of start and end."""
        outside = outputs.shape[1]
        total = torch.zeros((), device=outputs.device)
        for place, name in enumerate(self.targets):
            positions = batch[name].reshape(-1).clamp(0, outside)
            total = total + functional.cross_entropy(
                outputs[..., place].float(), positions, ignore_index=outside, reduction="sum"
            )
        return total / 2

    def distance(self, student: Tensor, teacher: Tensor, batch: Batch, lesson: Lesson) -> Tensor:
        """Half of the divergences of start and end."""
        real = _real(batch, student).unsqueeze(1).expand(-1, 2, -1)
        both = softmax_divergence(
            student.transpose(1, 2), teacher.transpose(1, 2), lesson.temperature, real
        )  # (B, 2)
        return (both.sum(-1) * self.items(batch)).sum() / 2


class MaskedTokens(Objective):
    """Words behind masks: cross entropy and divergence over the masked tokens, the only ones computed."""

    masked = True

    def items(self, batch: Batch) -> Tensor:
        """One item a masked token."""
        labels: Tensor = batch["labels"]
        return (labels != IGNORED).sum(-1)

    def outputs(self, output: Any, batch: Batch) -> Tensor:
        """Returns (m, V)."""
        logits = _logits(output)
        return logits.reshape(-1, logits.shape[-1])

    def labels_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross entropy."""
        labels = batch["labels"]
        return _cross_entropy(outputs, labels[labels != IGNORED])

    def distance(self, student: Tensor, teacher: Tensor, batch: Batch, lesson: Lesson) -> Tensor:
        """Divergence."""
        return softmax_divergence(student, teacher, lesson.temperature).sum()


class Embeddings(Objective):
    """One vector a text, learnt from the dense model alone: 1 - cosine, or similarities within the batch.

    Similarities compare a text with the others of its own batch, so several small batches a step see fewer
    pairs than a big one; by them alone a student may be narrower than its teacher.

    Args:
        pooling: How the vector is made.
    """

    targets = ()
    has_labels = False

    def __init__(self, pooling: Pooling) -> None:
        self.pooling = pooling

    def items(self, batch: Batch) -> Tensor:
        """One item a text."""
        return torch.ones(len(batch["input_ids"]), device=batch["input_ids"].device)

    def outputs(self, output: Any, batch: Batch) -> Tensor:
        """Returns (B, H)."""
        states = getattr(output, "last_hidden_state", None)
        if states is None:
            raise DataError("The model must return last_hidden_state.")
        return self.pooling(states, batch.get("attention_mask"))

    def labels_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Not there."""
        raise DataError(
            "Sentence embeddings have no labels to learn from: they need a teacher at every step "
            "(a distillation stage of hardness 1 over the whole run)."
        )

    def distance(self, student: Tensor, teacher: Tensor, batch: Batch, lesson: Lesson) -> Tensor:
        """1 - cosine, the distance of the similarities, or both; a temperature means nothing."""
        total = torch.zeros((), device=student.device)
        if lesson.vectors != "similarity":
            total = total + cosine_distance(student, teacher).sum()
        if lesson.vectors != "cosine":
            total = total + similarity_distance(student, teacher).sum()
        return total

    def comparable(self, student: Tensor, teacher: Tensor, lesson: Lesson) -> bool:
        """Similarities need as many texts only, cosines equal widths."""
        return len(student) == len(teacher) and (
            lesson.vectors == "similarity" or student.shape == teacher.shape
        )


def head_of(model: Any) -> str:
    """Returns the key of `HEADS` by a model's class or what it derives from.

    Raises:
        UnsupportedError: It has no head that is known.
    """
    names = [made.__name__ for made in type(model).__mro__]
    for head in HEADS:
        bare = head == "Model"  # many other classes' names end so; only an encoder is its own base
        if any(name.endswith(head) for name in names) and (not bare or model.base_model is model):
            return head
    raise UnsupportedError(
        f"{type(model).__name__} has no head that can be trained; supported are classes that end in "
        f"{', '.join(HEADS)}."
    )


def objective_of(model: Any, batch: Batch) -> Objective:
    """Chooses the objective by a model's class and `problem_type`; without the latter, as transformers do it.

    Args:
        model: A transformers model.
        batch: Its first batch, with its targets. The `problem_type` that follows from it is noted in the
            model's config, as transformers do.

    Raises:
        UnsupportedError: There is none.
        DataError: The batch has no labels, by which it would be chosen.
    """
    head = head_of(model)
    if head == "ForSequenceClassification":
        require_targets(batch, ("labels",))
        config, labels = model.config, batch["labels"]
        if config.problem_type is None:
            if config.num_labels == 1:
                config.problem_type = "regression"
            elif labels.dtype in (torch.long, torch.int):
                config.problem_type = "single_label_classification"
            else:
                config.problem_type = "multi_label_classification"
        kinds: dict[str, type[Objective]] = {
            "regression": Regression,
            "single_label_classification": SingleLabel,
            "multi_label_classification": MultiLabel,
        }
        return kinds[config.problem_type]()
    if head == "Model":
        return Embeddings(Pooling.of(model.config))
    made: dict[str, type[Objective]] = {
        "ForTokenClassification": Tokens,
        "ForQuestionAnswering": Spans,
        "ForMaskedLM": MaskedTokens,
    }
    return made[head]()


def require_targets(batch: Batch, names: Iterable[str]) -> None:
    """Raises DataError where a batch lacks what its model shall learn."""
    for name in names:
        if batch.get(name) is None:
            raise DataError(
                f"The student was trained without labels: every batch must bring {name!r}, and the Trainer "
                "must not take them away, as label smoothing and compute_loss_func do."
            )


def _logits(output: Any) -> Tensor:
    logits: Tensor | None = getattr(output, "logits", None)
    if logits is None:
        raise DataError("The model must return its logits; leave return_dict at True.")
    return logits


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")


def _length(batch: Batch) -> int:
    inputs = batch.get("input_ids")
    return int((batch["inputs_embeds"] if inputs is None else inputs).shape[1])


def _real(batch: Batch, outputs: Tensor) -> Tensor:
    """Returns (B, S) bool: what is a token and not padding."""
    mask = batch.get("attention_mask")
    if mask is None:
        return torch.ones(outputs.shape[:2], dtype=torch.bool, device=outputs.device)
    return torch.as_tensor(mask != 0)
