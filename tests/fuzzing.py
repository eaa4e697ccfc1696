"""The loop of a fuzzer: numbered cases in a child process, whose crash or hang is a finding and not the end.

A case sees nothing but its random numbers, and these come from the seed and its own number: what was found
once is found again with `--seed SEED --case NUMBER`, in this very process, where a debugger can look.

    python tests/fuzzing.py checkpoints --seconds 60 --seed 1
    python tests/fuzzing.py plans --seed 1 --case 4711
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np

# Runs a case and names its outcome, for example "refused"; raises on anything that must not happen.
Case = Callable[[np.random.Generator], str]

# What there is to fuzz: folder, module, case.
FUZZERS = {
    "checkpoints": ("hostile", "fuzz_checkpoints", "fuzz_checkpoint"),
    "plans": ("engine", "fuzz_plans", "fuzz_plan"),
}

HANG_SECONDS = 60
_STARTED = struct.Struct("<q")


class Finding(AssertionError):
    """What a fuzzer found."""


def fuzz(case: Case, seed: int, *, cases: int | None = None, seconds: float = 0.0) -> Counter[str]:
    """Runs cases until one of them fails.

    Args:
        case: What to run.
        seed: Of all random numbers.
        cases: How many to run; None goes by time.
        seconds: How long to run them.

    Returns:
        How many cases had which outcome.

    Raises:
        Finding: If a case raises, crashes or hangs.
    """
    shared = mmap.mmap(-1, _STARTED.size)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        with contextlib.suppress(BaseException):
            _serve(case, seed, cases, seconds, shared, writer)
            status = 0
        os._exit(status)
    os.close(writer)
    try:
        status, hangs = _watch(child, shared)
        with os.fdopen(reader, "r", closefd=False) as report:
            told = json.loads(report.read() or "{}")
    finally:
        os.close(reader)
    (number,) = _STARTED.unpack(shared[:])
    if hangs or status != 0 or "error" in told:
        what = told.get("error") or ("it hangs" if hangs else f"the process ends with {status}")
        raise Finding(f"seed {seed}, case {number}: {what}")
    return Counter(told)


def _serve(case: Case, seed: int, cases: int | None, seconds: float, shared: mmap.mmap, writer: int) -> None:
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + seconds
    number = 0
    while number < cases if cases is not None else time.monotonic() < end:
        shared[:] = _STARTED.pack(number)
        try:
            outcomes[run_case(case, seed, number)] += 1
        except BaseException:
            os.write(writer, json.dumps({"error": traceback.format_exc()[-3000:]}).encode())
            return
        number += 1
    os.write(writer, json.dumps(outcomes).encode())


def run_case(case: Case, seed: int, number: int) -> str:
    """Runs one case in this process."""
    return case(np.random.default_rng([seed, number]))


def _watch(child: int, shared: mmap.mmap) -> tuple[int, bool]:
    """Waits for the child; one that stays at the same case for too long is killed."""
    seen, since = b"", time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), False
        if shared[:] != seen:
            seen, since = shared[:], time.monotonic()
        if time.monotonic() - since > HANG_SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -signal.SIGKILL, True
        time.sleep(0.01)


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fuzzer", choices=sorted(FUZZERS))
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to run")
    parser.add_argument("--case", type=int, help="run this one alone, in this process")
    given = parser.parse_args()
    folder, module, name = FUZZERS[given.fuzzer]
    sys.path.insert(0, str(Path(__file__).parent / folder))
    case: Case = getattr(import_module(module), name)
    if given.case is not None:
        print(run_case(case, given.seed, given.case))
        return 0
    try:
        outcomes = fuzz(case, given.seed, seconds=given.seconds)
    except Finding as finding:
        print(finding)
        return 1
    shown = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    print(f"{given.fuzzer}, seed {given.seed}: {sum(outcomes.values())} cases, none of them bad: {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
