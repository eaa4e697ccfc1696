"""Texts cost what their core-seconds cost."""

from __future__ import annotations

import pytest

from secateur.bench.cost import checked_price, cost_per_million
from secateur.errors import DataError


def test_a_million_texts_at_a_thousand_a_second_on_two_cores() -> None:
    assert cost_per_million(1000, 2, 0.036) == pytest.approx(1000 * 2 * 0.036 / 3600)
    assert cost_per_million(5, 4, 0) == 0


@pytest.mark.parametrize("price", [-0.01, float("nan"), float("inf")])
def test_what_is_no_price_is_refused(price: float) -> None:
    with pytest.raises(DataError, match=r"--core-hour-price is .*0 or more"):
        checked_price(price)


def test_no_price_is_no_price() -> None:
    assert checked_price(None) is None
    assert checked_price(0.0) == 0
