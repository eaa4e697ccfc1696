from __future__ import annotations

import pytest
from fuzzing import fuzz

pytest.importorskip("secateur._engine")


@pytest.mark.filterwarnings("ignore:This process")  # Python 3.12+ warns of fork with threads
def test_damaged_descriptions_do_no_more_than_raise() -> None:
    from fuzz_plans import fuzz_plan

    outcomes = fuzz(fuzz_plan, seed=1, cases=600)
    assert outcomes["plans refused"] > 100
    assert outcomes["plans that ran"] > 100
