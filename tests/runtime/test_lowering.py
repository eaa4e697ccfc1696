from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import Numbers, int8_parts, write_tiny_checkpoint

from secateur.checkpoint import linear_names, read_checkpoint
from secateur.runtime.lowering import lower

QUANTIZES = {"scale", "input_scale", "input_zero_point"}
ATTENDS = {"query_scale", "query_zero_point", "key_scale", "value_scale"}


@pytest.mark.parametrize("density", [0.5, None])
@pytest.mark.parametrize("numbers", ["int8", "float32", "mixed"])
def test_each_part_is_described_by_its_own_numbers(
    tmp_path: Path, numbers: Numbers, density: float | None
) -> None:
    checkpoint = read_checkpoint(write_tiny_checkpoint(tmp_path / "model", density=density, numbers=numbers))
    parts = int8_parts(numbers)
    steps = lower(checkpoint)["steps"]
    linears = {step["name"]: step for step in steps if step["op"] == "linear"}
    assert list(linears) == [module for layer in (0, 1) for module in linear_names(layer).linears.values()]
    for name, step in linears.items():
        int8 = name in parts.linears
        own = {"op", "name", "role", "n", "k", "bias"} | (
            {"activation"} if step["role"] == "ffn_in" else set()
        )
        own |= {"weight"} if density is None else {"values", "mask"}
        assert step.keys() == own | (QUANTIZES if int8 else set())
        n, k = step["n"], step["k"]
        stored = step["weight" if density is None else "values"]
        assert stored.dtype == (np.int8 if int8 else np.float32)
        assert step["bias"].dtype == np.float32
        if density is None:
            assert stored.shape == (n, k)
        else:
            assert step["mask"].shape == (n, -(-k // (32 if int8 else 8)))
            kept = int(np.unpackbits(step["mask"]).sum())
            assert stored.shape == ((kept, 4) if int8 else (kept,))
    for step in (step for step in steps if step["op"] == "attention"):
        own = {"op", "name", "num_heads", "head_dim"}
        assert step.keys() == own | (ATTENDS if step["name"] in parts.attention else set())
    embed = steps[0]
    for kind in ("word", "position", "token_type"):
        assert embed[kind].dtype == (np.int8 if parts.embeddings else np.float32)
        assert (f"{kind}_scale" in embed) == parts.embeddings


def test_arrays_are_the_checkpoints_own(tmp_path: Path) -> None:
    """A plan is built without a second copy of a float model in memory."""
    checkpoint = read_checkpoint(write_tiny_checkpoint(tmp_path / "model", numbers="float32"))
    owned = [tensor.__array_interface__["data"][0] for tensor in checkpoint.tensors.values()]
    for step in lower(checkpoint)["steps"]:
        for value in step.values():
            if isinstance(value, np.ndarray):
                assert value.__array_interface__["data"][0] in owned
