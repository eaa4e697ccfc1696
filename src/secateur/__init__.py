"""Secateur compresses fine-tuned BERT-family models and runs them on its own sparse int8 CPU engine.

The names below are loaded on first use, so that `import secateur` is quick and imports no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.checkpoint import read_checkpoint
    from secateur.errors import SecateurError
    from secateur.modeling.structure import find_blocks
    from secateur.recipe.recipe import Recipe
    from secateur.runtime.engine import Engine
    from secateur.runtime.pipelines import pipeline
    from secateur.training.callback import CompressionCallback
    from secateur.training.trainer import compress

__version__ = "0.1.0"

__all__ = [
    "CompressionCallback",
    "Engine",
    "Recipe",
    "SecateurError",
    "__version__",
    "compress",
    "find_blocks",
    "pipeline",
    "read_checkpoint",
]

_HOMES = {
    "CompressionCallback": "secateur.training.callback",
    "Engine": "secateur.runtime.engine",
    "Recipe": "secateur.recipe.recipe",
    "SecateurError": "secateur.errors",
    "compress": "secateur.training.trainer",
    "find_blocks": "secateur.modeling.structure",
    "pipeline": "secateur.runtime.pipelines",
    "read_checkpoint": "secateur.checkpoint",
}
_TRAIN_EXTRA = {"torch", "transformers", "accelerate", "datasets", "yaml"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in _TRAIN_EXTRA:
            raise
        from secateur.errors import MissingExtraError

        raise MissingExtraError(
            f"secateur.{name} needs {error.name}, which is not installed: pip install 'secateur[train]'."
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
