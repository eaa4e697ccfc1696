from __future__ import annotations

import numpy as np
import pytest

from secateur.errors import DataError
from secateur.tasks.agreement import agreement


def test_agreement_measures_what_the_targets_ask() -> None:
    reference = np.array([[1.0, 0.9], [0.0, 1.0]])
    same = agreement(reference, reference)
    assert same == {"rows_differ": 0.0, "worst_margin": 0.0, "mean_difference": 0.0}
    other = agreement(reference, [[0.9, 1.0], [0.0, 1.0]])
    assert other["rows_differ"] == 0.5
    assert other["worst_margin"] == pytest.approx(0.1)
    assert other["mean_difference"] == pytest.approx(0.05 / reference.std())


def test_outputs_of_tokens_are_compared_token_by_token() -> None:
    reference = [np.array([[1.0, 0.9], [0.0, 1.0]]), np.array([[3.0, 0.0]])]
    other = [np.array([[0.9, 1.0], [0.0, 1.0]]), np.array([[3.0, 0.0]])]
    found = agreement(reference, other)
    assert found["rows_differ"] == pytest.approx(1 / 3)
    assert found["worst_margin"] == pytest.approx(0.1 / 3)


def test_starts_and_ends_are_compared_over_tokens() -> None:
    reference = [np.array([[1.0, 0.0], [0.0, 2.0], [0.5, 0.0]])]
    other = [np.array([[0.0, 0.0], [0.0, 2.0], [0.5, 0.0]])]
    found = agreement(reference, other, over_tokens=True)
    assert found["rows_differ"] == 0.5
    assert found["worst_margin"] == pytest.approx(0.25)


def test_one_number_a_row_has_no_margin() -> None:
    found = agreement(np.array([[1.0], [3.0]]), np.array([[1.0], [4.0]]))
    assert found == {"rows_differ": 0.0, "worst_margin": 0.0, "mean_difference": 0.5}


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(DataError, match="same shapes"):
        agreement([], [])
    with pytest.raises(DataError, match="same shapes"):
        agreement([np.zeros((2, 2))], [np.zeros((3, 2))])
