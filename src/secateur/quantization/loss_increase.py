"""What quantization costs on calibration texts: the rise of the loss, and the distance of the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.distillation.losses import cosine_distance, sigmoid_divergence, softmax_divergence
from secateur.modeling.pooling import Pooling
from secateur.quantization.calibration import CalibrationTexts

__all__ = ["FloatAnswers", "Increase"]

_MANY_OUTCOMES = 1024  # a head over the vocabulary: a few tokens of each batch say enough
_TOKENS_A_TEXT = 4


@dataclass(frozen=True)
class Increase:
    """A model compared with the float model, as means over the texts.

    Attributes:
        loss: By how much the loss is higher: that against the labels, or the divergence where there are none.
        divergence: Distance of the answers: Kullback-Leibler of classes, tokens and places of an answer,
            1 - cosine of embeddings, squared error by the variance of regressed values.
    """

    loss: float
    divergence: float


class FloatAnswers:
    """The answers of a float model, to compare others with.

    Args:
        model: A live float model in eval mode with any of the task heads.
        texts: What it reads.

    Attributes:
        measure: `loss` where every batch brings labels, else `divergence`.
    """

    def __init__(self, model: Any, texts: CalibrationTexts) -> None:
        labelled = texts.has(["labels"]) or texts.has(["start_positions", "end_positions"])
        self.measure: Literal["loss", "divergence"] = "loss" if labelled else "divergence"
        self._texts = texts
        self._answers: list[Tensor] = []
        self._loss = 0.0
        for output, _, mask in texts.run(model, targets=labelled):
            self._answers.append(_answers(model, output, mask))
            if labelled:
                self._loss += float(output.loss) * len(mask) / texts.rows

    def compare(self, model: Any) -> Increase:
        """Runs a model that was made of the float one.

        Args:
            model: In eval mode, with the same head.
        """
        loss = distance = 0.0
        labelled = self.measure == "loss"
        spread = float(torch.cat(self._answers).var()) if _kind(model) == "regression" else 1.0
        runs = self._texts.run(model, targets=labelled)
        for (output, _, mask), wanted in zip(runs, self._answers, strict=True):
            share = len(mask) / self._texts.rows
            distances = _distances(_kind(model), _answers(model, output, mask), wanted)
            distance += float(distances.double().mean()) / spread * share
            if labelled:
                loss += float(output.loss) * share
        return Increase(loss - self._loss if labelled else distance, distance)


def _kind(model: nn.Module) -> str:
    """Returns what the outcomes of a model are: `labels`, `regression`, `classes` or `embedding`."""
    name = type(model).__name__
    if name.endswith("ForSequenceClassification"):
        config = model.config
        kind = config.problem_type or ("regression" if config.num_labels == 1 else "classes")
        return {"multi_label_classification": "labels", "regression": "regression"}.get(kind, "classes")
    return "classes" if "For" in name else "embedding"


def _answers(model: Any, output: Any, mask: Tensor) -> Tensor:
    """Returns [rows or tokens, outcomes] float32: what is compared of a batch."""
    if getattr(output, "start_logits", None) is not None:
        both = torch.stack((output.start_logits, output.end_logits), dim=1).float()  # (B, 2, S)
        return both.masked_fill(~mask[:, None], torch.finfo(torch.float32).min).flatten(0, 1)
    logits = getattr(output, "logits", None)
    if logits is None:
        return Pooling.of(model.config)(output.last_hidden_state, mask)
    if logits.dim() == 2:
        return torch.as_tensor(logits.float())
    tokens = logits[mask].float()
    if tokens.shape[1] > _MANY_OUTCOMES:
        tokens = tokens[:: max(1, len(tokens) // (_TOKENS_A_TEXT * len(mask)))].clone()
    return torch.as_tensor(tokens)


def _distances(kind: str, answers: Tensor, wanted: Tensor) -> Tensor:
    if kind == "labels":
        return sigmoid_divergence(answers, wanted, 1.0).sum(-1)
    if kind == "regression":
        return (answers - wanted).square()
    return (cosine_distance if kind == "embedding" else _divergence)(answers, wanted)


def _divergence(answers: Tensor, wanted: Tensor) -> Tensor:
    return softmax_divergence(answers, wanted, 1.0)
