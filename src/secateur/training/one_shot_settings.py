"""What one-shot compression is asked for: a method without training, and post-training quantization."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from secateur.errors import RecipeError, problem_list
from secateur.pattern import Pattern
from secateur.quantization.scheme import PostTraining
from secateur.recipe.pruning_methods import METHODS, MethodOptions, option_problems
from secateur.sparsity import PRUNERS, Pruner
from secateur.sparsity.choice import RANKINGS

__all__ = ["ONE_SHOT_METHODS", "OneShot"]

# What they go by comes of training steps, or of what the weights were at an early one.
_TRAINED = {"lottery-ticket", *(name for name, options in METHODS.items() if options.learns)}
ONE_SHOT_METHODS = tuple(sorted(name for name in PRUNERS if name not in _TRAINED))
_SHARED = ("sparsity", "pattern", "ranking")


@dataclass(frozen=True)
class OneShot:
    """What becomes of a trained model, without training it.

    Attributes:
        method: How weights are scored, one of `ONE_SHOT_METHODS`; None prunes nothing.
        sparsity: Fraction of weights removed, 0 to below 1; None takes what an N:M pattern has.
        pattern: What is removed together, see `secateur.pattern.Pattern`.
        ranking: `global`, `matrix` or `row`; None takes the method's own.
        options: The method's own keys, as in a recipe's pruning stage.
        quantize: How the model is quantized afterwards; None leaves it in float.
        rows: Training rows to calibrate with; None takes 512, or all where there are fewer.
        seed: Of which rows, and of everything else that is random.
        max_length: Most tokens of a text; None means what the task takes.

    Raises:
        RecipeError: Something is not possible; names all of it.
    """

    method: str | None = "sparsegpt"
    sparsity: float | None = None
    pattern: str = "block4"
    ranking: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    quantize: PostTraining | None = None
    rows: int | None = None
    seed: int = 42
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.method is None and self.quantize is None:
            raise RecipeError("There is nothing to do: name a pruning method, or how to quantize.")
        if self.rows is not None and self.rows < 1:
            raise RecipeError(f"Calibration takes at least 1 row, but rows is {self.rows}.")
        if self.method is None:
            given = {"sparsity": self.sparsity, "ranking": self.ranking, **self.options}
            extra = [key for key, value in given.items() if value is not None]
            if extra:
                raise RecipeError(f"Without a pruning method {' and '.join(extra)} mean nothing: name one.")
            return
        if self.method in _TRAINED:
            raise RecipeError(
                f"The method {self.method} learns from training steps: use compress, or one of "
                f"{', '.join(ONE_SHOT_METHODS)}."
            )
        if self.method not in ONE_SHOT_METHODS:
            raise RecipeError(
                f"The method {self.method!r} is not known; allowed: {', '.join(ONE_SHOT_METHODS)}."
            )
        pattern = Pattern.parse(self.pattern)
        sparsity = self.sparsity
        if sparsity is None and pattern.is_grouped:
            sparsity = pattern.limit
            object.__setattr__(self, "sparsity", sparsity)
        if sparsity is None:
            raise RecipeError("How sparse shall the model become? Give a sparsity, 0 to below 1.")
        problems = []
        if not 0.0 <= sparsity < 1.0:
            problems.append(f"sparsity is {sparsity:g}, and must be 0 to below 1, as 0.8 for 80 %")
        elif pattern.is_grouped and abs(sparsity - pattern.limit) > 1e-6:
            problems.append(
                f"sparsity {sparsity:g} contradicts the pattern {pattern.name}, which removes "
                f"{pattern.limit:g}: leave it out"
            )
        if self.ranking is not None and self.ranking not in RANKINGS:
            problems.append(f"ranking is {self.ranking!r}, and must be one of {', '.join(RANKINGS)}")
        found = option_problems(self.method, dict(self.options), list(_SHARED))
        problems += [f"{self.method} {one}" if not one.place else str(one) for one in found]
        if problems:
            raise RecipeError(problem_list("This cannot be done in one shot", problems))

    def all_options(self) -> dict[str, Any]:
        """Returns the method's own keys with its defaults."""
        return self._own().model_dump()

    def _own(self) -> MethodOptions:
        assert self.method is not None
        return METHODS[self.method].model_validate(dict(self.options))

    def pruner(self) -> Pruner:
        """Returns the method, ready to be attached.

        Raises:
            RecipeError: Its options do not fit the pattern.
        """
        assert self.method is not None
        ranking: Any = self.ranking or METHODS[self.method].ranking
        return PRUNERS[self.method](Pattern.parse(self.pattern), ranking=ranking, **self._own().keywords())

    def to_yaml(self) -> str:
        """Returns everything that was asked for, with all defaults, as YAML."""
        stages: dict[str, Any] = {}
        if self.method is not None:
            stages["pruning"] = {
                "method": self.method,
                "pattern": Pattern.parse(self.pattern).name,
                "ranking": self.ranking or METHODS[self.method].ranking,
                "sparsity": self.sparsity,
                **self.all_options(),
            }
        if self.quantize is not None:
            stages["quantization"] = dataclasses.asdict(self.quantize)
        stages["calibration"] = {"rows": self.rows, "seed": self.seed, "max_length": self.max_length}
        text = yaml.safe_dump({"one_shot": stages}, sort_keys=False, allow_unicode=True, width=110)
        return f"# What `secateur one-shot` did; not a recipe for `secateur compress`.\n{text}"
