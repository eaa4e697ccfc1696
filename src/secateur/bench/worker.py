"""One candidate of a comparison, in a process of its own.

Candidates that share a process disturb each other: OpenMP and ONNX Runtime threads spin on after a call, and
the memory of an engine cannot be told from that of PyTorch beside it. Here each candidate waits, asleep, for
its turn. The parent holds a `Worker` and speaks JSON, one object a line, with this module run as a program.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from secateur.bench.environments import command
from secateur.bench.machine import installed_versions, resident_memory_mb
from secateur.bench.measure import Turn, take_turn

__all__ = ["Case", "Worker", "WorkerError"]


class WorkerError(RuntimeError):
    """The process of a candidate failed; the message carries what it said."""


# Threads of OpenMP and ONNX Runtime spin on for milliseconds after a call, on the cores of whoever is next.
WARM_UP_SECONDS = 0.05

_REPORTED_PACKAGES = (
    *("numpy", "onnx", "torch", "transformers", "onnxruntime"),
    *("openvino", "nncf", "deepsparse"),
)


@dataclass(frozen=True)
class Case:
    """One shape of request.

    Attributes:
        seq_len: Tokens in each sequence, none of them padding.
        batch_size: Sequences in a call.
        threads: Threads that the candidate may use.
    """

    seq_len: int
    batch_size: int = 1
    threads: int = 1


class Worker:
    """Starts a candidate's process and talks to it; close it, or use it as a context manager.

    Args:
        backend: Which candidate: a key of `secateur.bench.backends.BACKENDS`.
        folder: The model's folder.
        threads: Threads to be ready for.
        python: The interpreter of an environment that has the candidate's library; None for this one.
        variables: Environment variables to set.

    Raises:
        WorkerError: The model does not load.
    """

    def __init__(
        self,
        backend: str,
        folder: str | os.PathLike[str],
        *,
        threads: int = 1,
        python: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._log = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            command(python, "secateur.bench.worker", backend, os.fspath(folder), str(threads)),
            env={**os.environ, **(variables or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.backend = backend
        self.load_seconds: float = self._reply()["load_seconds"]

    def turn(self, case: Case, *, calls: int = 5, seconds: float = 0.0) -> Turn:
        """Lets the candidate time a few calls.

        Args:
            case: The shape of the request.
            calls: Least number of timed calls.
            seconds: Least time spent in timed calls.

        Returns:
            The samples.
        """
        reply = self._ask({"do": "turn", "case": asdict(case), "calls": calls, "seconds": seconds})
        return Turn(tuple(reply["samples_ms"]), reply["cpu_seconds"])

    def logits(self, input_ids: Sequence[Sequence[int]], *, threads: int = 1) -> NDArray[np.float32]:
        """Lets the candidate answer sequences.

        Args:
            input_ids: Token ids, special tokens included.
            threads: Threads that the candidate may use.

        Returns:
            [len(input_ids), num_labels] float32.
        """
        reply = self._ask({"do": "logits", "input_ids": [list(ids) for ids in input_ids], "threads": threads})
        return np.asarray(reply["logits"], np.float32)

    def facts(self) -> dict[str, Any]:
        """Asks what the process is made of.

        Returns:
            `peak_memory_mb`, `torch` (whether PyTorch is loaded), `prepare_seconds` (spent so far on making
            cases ready, before any call), `versions` (of the libraries that it may use) and `details` (what
            else the candidate says of itself).
        """
        return self._ask({"do": "facts"})

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the reply says why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._log.seek(0)
            said = self._log.read().strip().splitlines()[-1:] or [f"it ended with status {status}"]
            self.close()
            raise WorkerError(f"the {self.backend} process failed: {said[0]}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            self.close()
            raise WorkerError(f"the {self.backend} process failed: {reply['error']}")
        return reply


def serve(backend: str, folder: str, requests: TextIO, replies: TextIO, threads: int = 1) -> None:
    """Loads a candidate and answers requests until there are no more.

    Args:
        backend: A key of `BACKENDS`.
        folder: The model's folder.
        requests: One JSON object a line.
        replies: The same; the first says how long loading took.
        threads: Threads to be ready for.
    """

    def say(reply: dict[str, Any]) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    try:
        from secateur.bench.backends import BACKENDS

        start = time.perf_counter()
        candidate = BACKENDS[backend](folder, threads)
        say({"load_seconds": time.perf_counter() - start})
        calls: dict[Case, Callable[[], object]] = {}
        prepare_seconds = 0.0
        for line in requests:
            request = json.loads(line)
            if request["do"] == "turn":
                case = Case(**request["case"])
                if case not in calls:
                    start = time.perf_counter()
                    calls[case] = candidate.prepare(case)
                    prepare_seconds += time.perf_counter() - start
                turn = take_turn(
                    calls[case],
                    calls=request["calls"],
                    seconds=request["seconds"],
                    warm_up_seconds=WARM_UP_SECONDS,
                )
                say(asdict(turn))
            elif request["do"] == "logits":
                say({"logits": candidate.logits(request["input_ids"], request["threads"]).tolist()})
            elif request["do"] != "facts":
                raise ValueError(f"unknown request {request['do']!r}")
            else:
                say(
                    {
                        "peak_memory_mb": resident_memory_mb(peak=True),
                        "torch": "torch" in sys.modules,
                        "prepare_seconds": prepare_seconds,
                        "details": getattr(candidate, "facts", {}),
                        "versions": {
                            name: version
                            for name, version in installed_versions(_REPORTED_PACKAGES).items()
                            if version
                        },
                    }
                )
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})


def main() -> None:
    """Serves on stdin and stdout; whatever libraries print goes to stderr."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.argv[1], sys.argv[2], sys.stdin, replies, int(sys.argv[3]))


if __name__ == "__main__":
    main()
