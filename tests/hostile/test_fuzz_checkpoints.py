from __future__ import annotations

import pytest
from fuzzing import fuzz

pytest.importorskip("secateur._engine")


@pytest.mark.filterwarnings("ignore:This process")  # Python 3.12+ warns of fork with threads
def test_damaged_folders_do_no_more_than_raise() -> None:
    from fuzz_checkpoints import fuzz_checkpoint

    outcomes = fuzz(fuzz_checkpoint, seed=1, cases=250)
    assert outcomes["folders refused"] > 50
    assert outcomes["engines that answer"] > 40
