"""The pruners of a recipe on one run: which is at work, what it is given, what it chose."""

from __future__ import annotations

from typing import Any

from torch import nn

from secateur.errors import RecipeError
from secateur.recipe.plan import LEAST_SPARSITY, PruningSpan
from secateur.recipe.recipe import LockStage, PruningStage, Recipe
from secateur.sparsity import PRUNERS, Pattern, Pruner, lock_zeros_, sparsity_of
from secateur.sparsity.lock import SPARSE, unlocked_sparsity
from secateur.sparsity.targets import find_targets
from secateur.training.conditions import require_equal_masks
from secateur.training.evidence import Batches, TrainingEvidence, TrainingRows

__all__ = ["StagePruners", "check_zeros"]


def check_zeros(recipe: Recipe, model: nn.Module) -> None:
    """Checks that a recipe does not train the zeros of a sparse model away without saying so.

    Args:
        recipe: The recipe.
        model: A live model of a supported family, before anything is attached.

    Raises:
        RecipeError: It does.
    """
    targets = [stage.targets for stage in recipe.stages_of(PruningStage)]
    targets += [stage.targets for stage in recipe.stages_of(LockStage)]
    if recipe.training.densify or any("encoder" in names for names in targets):
        return
    sparsity = unlocked_sparsity(model)
    if sparsity >= SPARSE:
        raise RecipeError(
            f"{sparsity:.1%} of the encoder's weights are zero, and the recipe {recipe.name!r} would train "
            "them away: add the stage '- type: lock' to keep them, or set densify: true in training."
        )


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
        self._recipe = recipe
        self._stages = recipe.stages_of(PruningStage)
        self._locked: float | None = None
        self._pruners: list[Pruner] = []
        self._model: Any = None
        self._evidence: TrainingEvidence | None = None
        self._watched = False

    def attach_(self, model: nn.Module) -> float:
        """Attaches the masks of all stages, and those that keep the zeros that a sparse model has.

        Args:
            model: A live model of a supported family.

        Returns:
            Fraction of zeros that the model has where it is pruned, or in the encoder.

        Raises:
            RecipeError: The recipe would fill the zeros, or keep some where none are; see `check_zeros`.
            StructureError: A matrix does not divide into the pattern's blocks, or a target is not there.
        """
        self._model = model
        check_zeros(self._recipe, model)
        targets = self._stages[0].targets if self._stages else ("encoder",)
        found = sparsity_of([target.linear for target in find_targets(model, targets)])
        for lock in self._recipe.stages_of(LockStage):
            self._locked = lock_zeros_(model, lock.targets)
            if self._locked < LEAST_SPARSITY:
                raise RecipeError(
                    f"The recipe {self._recipe.name!r} has a stage of the type lock, but the model has no "
                    f"zeros to keep in its {', '.join(lock.targets)}: leave the stage out, or give a sparse "
                    "model."
                )
        if self._stages and found >= LEAST_SPARSITY:
            lock_zeros_(model, targets)  # until the first update, which starts from them
        for stage in self._stages:
            pruner = PRUNERS[stage.method](
                Pattern.parse(stage.pattern), ranking=stage.ranking, **stage.options.keywords()
            )
            pruner.targets, pruner.biases = stage.targets, stage.biases
            pruner.attach_(model)
            self._pruners.append(pruner)
        self.current = self._pruners[0] if self._pruners else None
        return found

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
            return {} if self._locked is None else {"sparsity": round(self._locked, 6)}
        last = self.record[-1] if self.record else {}
        noted = {name: value for name, value in last.items() if name != "step"}
        return {**noted, "sparsity": round(self.current.sparsity, 6)}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns what the methods themselves learn, as groups for an optimizer."""
        groups, known = [], set[int]()
        for pruner in self._pruners:
            for group in pruner.parameter_groups():
                # Stages of one method share what it learns.
                fresh = [one for one in group["params"] if id(one) not in known]
                known |= {id(one) for one in fresh}
                if fresh:
                    groups.append({**group, "params": fresh})
        return groups

    def watch_(self, optimizer: Any) -> None:
        """Shows the methods the optimizer."""
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate may have wrapped it
        for pruner in self._pruners:
            pruner.watch_(inner)
        self._watched = True

    def follow_(self, spans: tuple[PruningSpan, ...], step: int, resumed: bool) -> None:
        """Tells the methods how far the run is.

        Args:
            spans: The stages, as planned.
            step: Optimizer steps done.
            resumed: Whether the state after this step was loaded, so that nothing is to be remembered.

        Raises:
            RecipeError: A method that learns, or rewinds, was not shown the optimizer.
        """
        begun = max((span.position for span in spans if span.start <= step), default=0)
        for stage, pruner, span in zip(self._stages, self._pruners, spans, strict=True):
            pruner.follow_(span.progress(step) if span.position == begun else 0.0)
            if step == span.remember and not resumed:
                pruner.remember_()
            if step > 0 and not self._watched and type(pruner).watch_ is not Pruner.watch_:
                raise RecipeError(
                    f"The pruning method {stage.method!r} works on the optimizer, too: call "
                    "callback.group_parameters_(optimizer) right after the optimizer is made."
                )
