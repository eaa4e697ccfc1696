"""Recipes: what is done to a model and when."""

from secateur.recipe.recipe import (
    BUILTIN_RECIPES,
    DistillationStage,
    FreezingStage,
    LearningRateStage,
    LockStage,
    PruningStage,
    QuantizationStage,
    Recipe,
    StudentShape,
    TrainingSettings,
    load_recipe,
)

__all__ = [
    "BUILTIN_RECIPES",
    "DistillationStage",
    "FreezingStage",
    "LearningRateStage",
    "LockStage",
    "PruningStage",
    "QuantizationStage",
    "Recipe",
    "StudentShape",
    "TrainingSettings",
    "load_recipe",
]
