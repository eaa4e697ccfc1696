"""The pruners of a recipe on one run: which is at work, what it is given, what it chose."""

from __future__ import annotations

from typing import Any

from torch import nn

from secateur.errors import RecipeError
from secateur.recipe.plan import PruningSpan
from secateur.recipe.recipe import PruningStage, Recipe
from secateur.sparsity import PRUNERS, Pattern, Pruner
from secateur.training.conditions import require_equal_masks
from secateur.training.evidence import Batches, TrainingEvidence, TrainingRows

__all__ = ["StagePruners"]


class StagePruners:
    """One pruner for each pruning stage of a recipe.

    Args:
        recipe: The recipe.

    Attributes:
        current: The one of the current or next pruning stage; None without.
        record: What every step so far chose: `step`, `sparsity` and what the method notes of itself.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.current: Pruner | None = None
        self.record: list[dict[str, float]] = []
        self._stages = recipe.stages_of(PruningStage)
        self._pruners: list[Pruner] = []
        self._model: Any = None
        self._evidence: TrainingEvidence | None = None

    def attach_(self, model: nn.Module) -> None:
        """Attaches the masks of all stages."""
        self._model = model
        for stage in self._stages:
            options = stage.options.model_dump()
            made = PRUNERS[stage.method](Pattern.parse(stage.pattern), ranking=stage.ranking, **options)
            made.attach_(model)
            self._pruners.append(made)
        self.current = self._pruners[0] if self._pruners else None

    def take_rows_(self, loader: Any, seed: int) -> None:
        """Lets the methods draw from a Trainer's rows.

        Args:
            loader: Its train_dataloader.
            seed: The run's.

        Raises:
            RecipeError: The rows cannot be asked for by number.
            DataError: They are fewer than a method asks for.
        """
        if not any(pruner.needs for pruner in self._pruners):
            return
        rows = TrainingRows(loader, seed)
        for pruner in self._pruners:
            pruner.check_rows(len(rows))
        self._evidence = TrainingEvidence(self._model, rows.shuffled, rows.held_out, seed=seed)

    def take_batches_(self, batches: Batches | None, seed: int) -> None:
        """Lets the methods draw from batches that a loop of one's own gives.

        Args:
            batches: Called for one pass over the rows; see `TrainingEvidence`.
            seed: The run's.

        Raises:
            RecipeError: There are none, and a method needs them.
        """
        if batches is not None:
            self._evidence = TrainingEvidence(self._model, batches, seed=seed)
            return
        for stage, pruner in zip(self._stages, self._pruners, strict=True):
            if pruner.needs:
                raise RecipeError(
                    f"The pruning method {stage.method!r} learns from {' and '.join(sorted(pruner.needs))}: "
                    "give attach_ its batches, a function that yields those of one pass over the rows."
                )

    def step_(self, span: PruningSpan, step: int, sparsity: float) -> None:
        """Chooses the masks anew.

        Args:
            span: The stage, as planned.
            step: Optimizer steps done.
            sparsity: Fraction of blocks to remove.

        Raises:
            StructureError: See `Pruner.step_`; or processes chose different masks.
        """
        pruner = self.current = self._pruners[span.position]
        if self._evidence is not None:
            self._evidence.step = step
        pruner.step_(sparsity, self._evidence if pruner.needs else None)
        require_equal_masks(pruner)
        self.record.append({"step": step, "sparsity": round(pruner.sparsity, 6), **pruner.notes()})

    def status(self) -> dict[str, float]:
        """Returns what there is to log: `sparsity`, and what the method notes of its last step."""
        if self.current is None:
            return {}
        last = self.record[-1] if self.record else {}
        noted = {name: value for name, value in last.items() if name != "step"}
        return {**noted, "sparsity": round(self.current.sparsity, 6)}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns what the methods themselves learn, as groups for an optimizer."""
        return [group for pruner in self._pruners for group in pruner.parameter_groups()]
