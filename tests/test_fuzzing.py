"""The fuzzers' loop finds what goes wrong; what the fuzzers look for is in engine/ and hostile/."""

from __future__ import annotations

import os
import signal
import time

import fuzzing
import numpy as np
import pytest
from fuzzing import Finding, fuzz

pytestmark = pytest.mark.filterwarnings("ignore:This process")  # Python 3.12+ warns of fork with threads


def _failing_at(draw: int, failure: object) -> fuzzing.Case:
    def case(rng: np.random.Generator) -> str:
        if rng.integers(0, 20) == draw:
            failure()  # type: ignore[operator]
        return "fine"

    return case


def _first(draw: int, seed: int) -> int:
    return next(i for i in range(1000) if np.random.default_rng([seed, i]).integers(0, 20) == draw)


def test_outcomes_are_counted() -> None:
    assert fuzz(_failing_at(30, None), 5, cases=40) == {"fine": 40}
    assert fuzz(_failing_at(30, None), 5, seconds=0.2)["fine"] > 1


def test_exceptions_crashes_and_hangs_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "HANG_SECONDS", 0.5)
    failures = {
        "ZeroDivisionError": lambda: 1 / 0,
        "the process ends with -9": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "the process ends with 3": lambda: os._exit(3),
        "it hangs": lambda: time.sleep(30),
        "SystemExit": lambda: exit(0),
    }
    for draw, (message, failure) in enumerate(failures.items()):
        with pytest.raises(Finding, match=f"(?s)seed 9, case {_first(draw, 9)}: .*{message}"):
            fuzz(_failing_at(draw, failure), 9, cases=1000)
