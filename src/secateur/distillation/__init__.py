"""Learning from a dense teacher."""

from secateur.distillation.layer_map import layer_pairs
from secateur.distillation.lesson import SILENT, Lesson
from secateur.distillation.losses import hidden_state_loss
from secateur.distillation.objectives import Objective, objective_of
from secateur.distillation.teacher import TEACHER_LOGITS, StudentHook

__all__ = [
    "SILENT",
    "TEACHER_LOGITS",
    "Lesson",
    "Objective",
    "StudentHook",
    "hidden_state_loss",
    "layer_pairs",
    "objective_of",
]
