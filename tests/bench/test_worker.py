"""Candidates in processes of their own: the same answers, and nothing of PyTorch beside our engine."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import write_tiny_checkpoint

from secateur.bench.worker import Case, Worker, WorkerError, serve
from secateur.runtime.engine import Engine

IDS = [[2, 5, 6, 3], [2, 7, 3], [2, 8, 9, 10, 11, 3]]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "model")


def test_our_engine_answers_without_torch(checkpoint: Path) -> None:
    with Worker("secateur", checkpoint) as worker:
        assert 0 < worker.load_seconds < 60
        assert np.array_equal(worker.logits(IDS, threads=2), Engine.from_pretrained(checkpoint)(IDS))
        turn = worker.turn(Case(seq_len=8, batch_size=2), calls=3)
        assert len(turn.samples_ms) == 3
        facts = worker.facts()
        assert facts["torch"] is False
        assert facts["peak_memory_mb"] is None or facts["peak_memory_mb"] < 200


def test_a_model_that_does_not_load_says_why(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"the secateur process failed: .*config\.json"):
        Worker("secateur", tmp_path)


def test_a_process_that_dies_is_an_error(checkpoint: Path) -> None:
    worker = Worker("secateur", checkpoint)
    worker._process.kill()
    worker._process.wait()
    with pytest.raises(WorkerError, match="status -9"):
        worker.facts()


def test_the_protocol_is_one_json_object_a_line(checkpoint: Path) -> None:
    case = {"seq_len": 4, "batch_size": 1, "threads": 1}
    requests = [{"do": "turn", "case": case, "calls": 2, "seconds": 0}, {"do": "facts"}, {"do": "nonsense"}]
    replies = io.StringIO()
    serve(
        "secateur", str(checkpoint), io.StringIO("".join(json.dumps(one) + "\n" for one in requests)), replies
    )
    loaded, turn, facts, error = map(json.loads, replies.getvalue().splitlines())
    assert set(loaded) == {"load_seconds"}
    assert len(turn["samples_ms"]) == 2
    assert set(facts) == {"peak_memory_mb", "torch", "prepare_seconds", "details", "versions"}
    assert "nonsense" in error["error"]
