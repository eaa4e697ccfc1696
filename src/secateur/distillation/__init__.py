"""Learning from a dense teacher."""

from secateur.distillation.losses import distillation_loss, hidden_state_loss
from secateur.distillation.teacher import TEACHER_LOGITS, StudentHook

__all__ = ["TEACHER_LOGITS", "StudentHook", "distillation_loss", "hidden_state_loss"]
