"""Every way in which a checkpoint with dynamic inputs can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import LAYER, QUERY, Tensors, replaced, rewrite
from tiny_checkpoint import QUANTIZATION, Numbers, edit_config, write_tiny_checkpoint

from secateur.checkpoint import read_checkpoint
from secateur.errors import CheckpointError

KEY = f"{LAYER}.attention.self.key"
FFN_IN = f"{LAYER}.intermediate.dense"  # dynamic in "mixed inputs"
FFN_OUT = f"{LAYER}.output.dense"  # static there


def add(module: str, *suffixes: str) -> Callable[[Tensors], None]:
    """Gives a module the parts of a static range."""
    parts = {"input_scale": np.full(1, 0.02, np.float32), "input_zero_point": np.full(1, 128, np.uint8)}
    return lambda tensors: tensors.update({f"{module}.{suffix}": parts[suffix] for suffix in suffixes})


def take(module: str, *suffixes: str) -> Callable[[Tensors], None]:
    return lambda tensors: [tensors.pop(f"{module}.{suffix}") for suffix in suffixes] and None


BOTH = ("input_scale", "input_zero_point")


@pytest.mark.parametrize("numbers", ["dynamic", "mixed inputs"])
def test_the_sound_ones_are_read(tmp_path: Path, numbers: Numbers) -> None:
    checkpoint = read_checkpoint(write_tiny_checkpoint(tmp_path / "model", numbers=numbers))
    assert checkpoint.quantization.format_version == 4


@pytest.mark.parametrize(
    ("numbers", "change", "message"),
    [
        (
            "dynamic",
            add(FFN_OUT, *BOTH),
            f"tensor {FFN_OUT}.input_scale is a static range, but quantization_config.activations is 's8_dyn",
        ),
        ("dynamic", add(FFN_OUT, "input_scale"), f"{FFN_OUT}.input_scale is a static range"),
        ("dynamic", add(FFN_OUT, "input_zero_point"), f"{FFN_OUT}.input_zero_point is a static range"),
        ("dynamic", take(FFN_OUT, "weight_scale"), f"tensor {FFN_OUT}.weight_scale is missing"),
        (
            "dynamic",
            lambda t: [t.pop(f"{FFN_OUT}.weight_values"), t.pop(f"{FFN_OUT}.weight_mask")],
            f"tensor {FFN_OUT}.weight is missing",
        ),
        ("dynamic", take(f"{LAYER}.attention", "query_scale"), "attention.query_scale is missing"),
        ("mixed inputs", take(FFN_OUT, "input_scale"), f"tensor {FFN_OUT}.input_scale is missing"),
        ("mixed inputs", take(FFN_OUT, "input_zero_point"), f"tensor {FFN_OUT}.input_zero_point is missing"),
        ("mixed inputs", add(FFN_IN, "input_scale"), f"tensor {FFN_IN}.input_zero_point is missing"),
        (
            "mixed inputs",
            take(QUERY, *BOTH),
            f"query, key and value of {LAYER}.attention read one tensor: all of them that are int8 must have "
            "an input_scale, or none",
        ),
        (
            "mixed inputs",
            lambda t: [take(f"bert.encoder.layer.{i}.{m}", *BOTH)(t) for i, m in STATIC],
            "activations is 'mixed', but 12 of 12 linear layers are without an input_scale",
        ),
        (
            "mixed inputs",
            lambda t: [add(f"bert.encoder.layer.{i}.{m}", *BOTH)(t) for i, m in DYNAMIC],
            "activations is 'mixed', but 0 of 12 linear layers are without an input_scale",
        ),
        (
            "mixed inputs",
            lambda t: t.update({f"{FFN_OUT}.input_scale": np.zeros(1, np.float32)}),
            "input_scale holds a scale that is not a positive normal number",
        ),
        (
            "mixed inputs",
            replaced(f"{FFN_OUT}.input_zero_point", lambda z: z.astype(np.int8)),
            r"input_zero_point must be uint8 \[1\], but is int8",
        ),
    ],
)
def test_wrong_tensors_are_refused(
    tmp_path: Path, numbers: Numbers, change: Callable[[Tensors], Any], message: str
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model", numbers=numbers)
    rewrite(folder, change, numbers)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)


_SELF = [f"attention.self.{role}" for role in ("query", "key", "value")]
STATIC = [
    *((0, name) for name in (*_SELF, "output.dense")),
    *((1, name) for name in ("attention.output.dense", "intermediate.dense")),
]
DYNAMIC = [(1 - layer, name) for layer, name in STATIC]


@pytest.mark.parametrize(
    ("numbers", "changes", "message"),
    [
        *(
            (
                "dynamic",
                {"format_version": version},
                "quantization_config.activations: (input should be 'u8_static'|must be 'u8_static')",
            )
            for version in (1, 2, 3)
        ),
        (
            "mixed inputs",
            {"format_version": 3},
            "activations: must be 'u8_static' where weights are 's8_per_row', but it is 'mixed'",
        ),
        ("dynamic", {"format_version": 5}, "has format version 5, and this Secateur reads versions 1 to 4"),
        ("dynamic", {"activations": "u8_static"}, f"tensor {FFN_IN}.input_scale is missing"),
        (
            "dynamic",
            {"activations": "mixed"},
            "activations is 'mixed', but 12 of 12 linear layers are without an input_scale",
        ),
        ("mixed inputs", {"activations": "u8_static"}, f"tensor {FFN_IN}.input_scale is missing"),
        ("mixed inputs", {"activations": "s8_dynamic"}, f"{FFN_OUT}.input_scale is a static range"),
        ("dynamic", {"activations": "s8"}, "quantization_config.activations: input should be"),
        (
            "dynamic",
            {"activations": "f32"},
            "must be 'u8_static' or 's8_dynamic' or 'mixed' where weights are 's8_per_row', but it is 'f32'",
        ),
        (
            "float32",
            {"format_version": 4, "activations": "s8_dynamic"},
            "activations: must be 'f32' where weights are 'f32', but it is 's8_dynamic'",
        ),
        (
            "mixed",
            {"format_version": 4, "activations": "s8_dynamic"},
            "activations: must be 'mixed' where weights are 'mixed', but it is 's8_dynamic'",
        ),
        (
            "dynamic",
            {"weights": "f32", "activations": "f32"},
            "quantization_config.weights is 'f32', but 12 of 12 linear layers are int8",
        ),
    ],
)
def test_wrong_configs_are_refused(
    tmp_path: Path, numbers: Numbers, changes: dict[str, Any], message: str
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model", numbers=numbers)
    edit_config(folder, quantization_config={**QUANTIZATION[numbers], **changes})
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)


def test_a_float_matrix_has_no_range_in_version_4_either(tmp_path: Path) -> None:
    """Beside float matrices, each int8 one says by its tensors how its input is quantized."""
    folder = write_tiny_checkpoint(tmp_path / "model", numbers="mixed")
    edit_config(folder, quantization_config={**QUANTIZATION["mixed"], "format_version": 4})
    rewrite(folder, take(KEY, *BOTH), "mixed")
    with pytest.raises(CheckpointError, match=r"query, key and value of .* read one tensor"):
        read_checkpoint(folder)
    rewrite(folder, add(QUERY, *BOTH), "mixed")
    with pytest.raises(CheckpointError, match=f"{QUERY}.input_scale quantizes to int8, but"):
        read_checkpoint(folder)
    rewrite(folder, take(FFN_IN, *BOTH), "mixed")
    checkpoint = read_checkpoint(folder)
    assert f"{FFN_IN}.input_scale" not in checkpoint.tensors
