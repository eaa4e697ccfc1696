"""From a live PyTorch model to files that run without PyTorch."""

from secateur.export.checkpoint import export_checkpoint

__all__ = ["export_checkpoint"]
