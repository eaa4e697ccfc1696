"""Training on the stock transformers Trainer."""

from secateur.training.callback import CompressionCallback
from secateur.training.conditions import last_checkpoint
from secateur.training.students import make_student
from secateur.training.trainer import Compression, FineTuning, compress, fine_tune

__all__ = [
    "Compression",
    "CompressionCallback",
    "FineTuning",
    "compress",
    "fine_tune",
    "last_checkpoint",
    "make_student",
]
