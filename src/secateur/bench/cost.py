"""What texts cost, from how fast they are answered and what a core costs."""

from __future__ import annotations

import math

from secateur.errors import DataError

__all__ = ["checked_price", "cost_per_million"]


def checked_price(core_hour_price: float | None) -> float | None:
    """Checks the price of a core-hour.

    Args:
        core_hour_price: In any currency, or None.

    Returns:
        The same.

    Raises:
        DataError: It is negative, infinite or not a number.
    """
    if core_hour_price is not None and not (math.isfinite(core_hour_price) and core_hour_price >= 0):
        raise DataError(
            f"--core-hour-price is {core_hour_price}: give what an hour of one core costs, 0 or more."
        )
    return core_hour_price


def cost_per_million(throughput: float, threads: int, core_hour_price: float) -> float:
    """Computes the cost of a million texts.

    Args:
        throughput: Texts a second, with all threads.
        threads: Threads that were used; each counts as a core.
        core_hour_price: What an hour of one core costs.

    Returns:
        In the currency of the price.
    """
    return 1e6 / throughput * threads * core_hour_price / 3600
