"""What pruning methods may ask of a model that is not being trained."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from secateur.errors import StructureError
from secateur.sparsity.evidence import Visit
from secateur.sparsity.layer_inputs import LayerInputs
from secateur.training.encoding import Features, Padder
from secateur.training.evidence import TrainingEvidence, TrainingRows

__all__ = ["OneShotEvidence", "calibration_batches"]

_TARGETS = ("labels", "start_positions", "end_positions")
_ROWS = 32  # a batch of texts that only runs forward


def calibration_batches(features: Features, padder: Padder) -> list[dict[str, Tensor]]:
    """Returns batches of features of about one length, longest first.

    Args:
        features: Encoded rows.
        padder: Collates them, with their targets where they have any.
    """
    order = features.by_length()
    parts = [order[start : start + _ROWS] for start in range(0, len(order), _ROWS)]
    return [padder([features[number] for number in part]) for part in parts]


class OneShotEvidence:
    """`Evidence` from calibration texts, and where methods ask for gradients from labelled rows.

    Inputs are shown layer by layer without running the layers in front of it again, see `LayerInputs`.

    Args:
        model: The model, with or without masks.
        batches: Calibration texts, as arguments of `model.forward`; targets are not used.
        labelled: Rows to take gradients of, and what collates them; None has no gradients.
        batch_size: Rows of a gradient.
        seed: Of the draws.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Mapping[str, Any]],
        labelled: tuple[Features, Padder] | None = None,
        *,
        batch_size: int = 16,
        seed: int = 42,
    ) -> None:
        texts = [{name: one[name] for name in one if name not in _TARGETS} for one in batches]
        self._inputs = LayerInputs(model, texts) if texts else None
        self.rows = 0
        self._training: TrainingEvidence | None = None
        if labelled is not None:
            features, padder = labelled
            loader = DataLoader(features, batch_size=batch_size, collate_fn=padder)
            rows = TrainingRows(loader, seed)
            self.rows = len(rows)
            self._training = TrainingEvidence(model, rows.shuffled, rows.held_out, seed=seed)

    @property
    def step(self) -> int:
        """Number of the update: another one draws other rows for gradients."""
        return 0 if self._training is None else self._training.step

    @step.setter
    def step(self, step: int) -> None:
        if self._training is not None:
            self._training.step = step

    def gradients(
        self, count: int, *, draw: int = 0, matrices: Sequence[int] | None = None
    ) -> Iterator[list[Tensor]]:
        """See `Evidence.gradients`."""
        return self._labelled().gradients(count, draw=draw, matrices=matrices)

    def held_out_loss(self) -> float:
        """See `Evidence.held_out_loss`."""
        return self._labelled().held_out_loss()

    def inputs(self, visit: Visit, wanted: Collection[str] | None = None) -> None:
        """See `Evidence.inputs`.

        Raises:
            StructureError: There are no calibration texts.
        """
        if self._inputs is None:
            raise StructureError("There are no calibration texts to show inputs of: give some.")
        self._inputs.inputs(visit, wanted)

    def _labelled(self) -> TrainingEvidence:
        if self._training is None:
            raise StructureError("There are no labelled rows to take gradients of: give some.")
        return self._training
