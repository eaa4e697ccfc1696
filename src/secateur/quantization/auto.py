"""Which matrices and attentions stay in float: the ones that cost most, until the loss is within a bound."""

from __future__ import annotations

from typing import Any

from secateur.errors import RecipeError
from secateur.quantization.loss_increase import FloatAnswers
from secateur.quantization.partial import FloatWeights, Switches

__all__ = ["leave_worst_in_float_"]


def leave_worst_in_float_(
    model: Any, answers: FloatAnswers, floats: FloatWeights, most: float, bfloat16: bool
) -> dict[str, Any]:
    """Takes the quantizers off the worst matrices and attentions until the loss rises by no more than `most`.

    Each is measured alone: the distance of the answers from the float model's while it computes in int8 and
    everything else in float. In that order, the worst first, they are left in float, and after each the loss
    of what remains is measured; what was left in float stays so.

    Args:
        model: A model in eval mode with quantizers whose ranges are frozen.
        answers: Of the float model.
        floats: Weights of the float model.
        most: Bound of the rise of the mean loss, or of the divergence where the texts have no labels.
        bfloat16: Whether the engine will run what stays float in bfloat16.

    Returns:
        For metrics.json: `measure`, `bound`, `order` (every matrix and attention with its divergence alone,
        worst first), `left_in_float`, `before` and `after` (rise of the loss with everything in int8, and
        now).

    Raises:
        RecipeError: With everything in float but the embeddings the loss still rises by more.
    """
    switches = Switches(model, floats, bfloat16)
    alone = {}
    for unit in switches.units:
        switches.set_({unit}, rows=False)
        alone[unit] = answers.compare(model).divergence
    order = sorted(switches.units, key=lambda unit: -alone[unit])  # stable: of equals the earlier layer
    int8 = set(switches.units)
    switches.set_(int8)
    before = after = answers.compare(model).loss
    left: list[str] = []
    while not after <= most and len(left) < len(order):
        left.append(order[len(left)])
        int8.discard(left[-1])
        switches.set_(int8)
        after = answers.compare(model).loss
    switches.release_(int8)
    if not after <= most:
        raise RecipeError(
            f"max_loss_increase is {most:g}, but with int8 embeddings alone the {answers.measure} on the "
            f"calibration texts already rises by {after:.3g}: allow more."
        )
    return {
        "measure": answers.measure,
        "bound": most,
        "order": [{"name": unit, "divergence": alone[unit]} for unit in order],
        "left_in_float": left,
        "before": before,
        "after": after,
    }
