"""Learning from a dense teacher."""

from secateur.distillation.losses import hidden_state_loss
from secateur.distillation.objectives import Objective, objective_of
from secateur.distillation.teacher import TEACHER_LOGITS, StudentHook

__all__ = ["TEACHER_LOGITS", "Objective", "StudentHook", "hidden_state_loss", "objective_of"]
