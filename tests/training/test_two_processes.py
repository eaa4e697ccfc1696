"""Two processes train as one: torchrun on the CPU with gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("several_processes.py")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run(*arguments: str) -> None:
    # accelerate and the Trainer would take a GPU for each process; the rows are dealt alike on the CPU.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.long
@pytest.mark.parametrize(
    ("way", "method"),
    [
        ("trainer", "magnitude"),
        ("loop", "magnitude"),
        ("trainer", "soft-movement"),
        ("loop", "movement"),
        ("trainer", "lottery-ticket"),
        ("loop", "obert"),
    ],
)
def test_two_processes_give_what_one_gives(tmp_path: Path, way: str, method: str) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    together.mkdir()
    run(str(SCRIPT), way, str(alone), "16", method)
    run(*TORCHRUN, str(SCRIPT), way, str(together), "8", method)
    expected = load_file(alone / "rank0.safetensors")
    first, second = (load_file(together / f"rank{rank}.safetensors") for rank in (0, 1))
    assert expected.keys() == first.keys() == second.keys()
    for name, tensor in expected.items():
        assert torch.equal(first[name], second[name]), name
        if tensor.dtype == torch.bool:
            assert torch.equal(tensor, first[name]), name
        else:
            torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    masks = [tensor for name, tensor in first.items() if name.endswith("weight_mask")]
    kept = sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    assert kept == pytest.approx(0.25, abs=0.01)
