"""Every way in which a float32 or mixed checkpoint can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import DENSE, LAYER, QUERY, Tensors, put, replaced, rewrite
from safetensors.numpy import save_file
from tiny_checkpoint import (
    QUANTIZATION,
    Numbers,
    edit_config,
    tiny_config,
    tiny_tensors,
    write_tiny_checkpoint,
)

from secateur.checkpoint import read_checkpoint
from secateur.errors import CheckpointError

INT8_KEY = f"{LAYER}.attention.self.key"  # int8 in "mixed"
FLOAT_ATTENTION = "bert.encoder.layer.1.attention"


@pytest.mark.parametrize(
    ("numbers", "change", "message"),
    [
        *(
            (numbers, change, message)
            for numbers in ("float32", "mixed")
            for change, message in (
                (put(f"{QUERY}.weight_values", 3, np.nan), "weight_values holds NaN or infinity"),
                (put(f"{QUERY}.weight_values", 0, -np.inf), "weight_values holds NaN or infinity"),
                (put(f"{QUERY}.bias", 0, np.nan), f"{QUERY}.bias holds NaN or infinity"),
                (lambda t: t.pop(f"{QUERY}.bias"), f"tensor {QUERY}.bias is missing"),
                (lambda t: t.pop(f"{QUERY}.weight_mask"), f"tensor {QUERY}.weight_mask is missing"),
                (lambda t: t.pop(f"{QUERY}.weight_values"), f"tensor {QUERY}.weight_values is missing"),
                (
                    lambda t: [t.pop(f"{QUERY}.weight_values"), t.pop(f"{QUERY}.weight_mask")],
                    f"tensor {QUERY}.weight is missing",
                ),
                (
                    lambda t: t.update({f"{QUERY}.weight": np.zeros((32, 32), np.float32)}),
                    f"{QUERY} has both a dense and a sparse weight",
                ),
                (
                    replaced(f"{QUERY}.weight_values", lambda v: v[1:]),
                    f"weight_mask keeps .* weights, but {QUERY}.weight_values has another number",
                ),
                (put(f"{QUERY}.weight_mask", (0, 0), 0), "weight_mask keeps .* weights"),
                (
                    replaced(f"{QUERY}.weight_values", lambda v: v[:, None]),
                    r"weight_values must be float32 \[\d+\], but is float32 \[\d+, 1\]",
                ),
                (
                    replaced(f"{QUERY}.weight_mask", lambda m: m[:, :1]),
                    r"weight_mask must be uint8 \[32, 4\], but is uint8 \[32, 1\]",
                ),
                (
                    lambda t: t.update({f"{QUERY}.weight_scale": np.ones(32, np.float32)}),
                    f"tensor {QUERY}.weight_scale quantizes to int8, but {QUERY} is float32",
                ),
                (
                    lambda t: t.update({f"{QUERY}.input_scale": np.ones(1, np.float32)}),
                    f"tensor {QUERY}.input_scale quantizes to int8, but {QUERY} is float32",
                ),
                (
                    lambda t: t.update({f"{QUERY}.input_zero_point": np.zeros(1, np.uint8)}),
                    f"tensor {QUERY}.input_zero_point quantizes to int8",
                ),
            )
        ),
        (
            "float32",
            replaced(f"{QUERY}.weight_values", lambda v: v.astype(np.int8)),
            "quantization_config.weights is 'f32', but 1 of 12 linear layers are int8",
        ),
        (
            "float32",
            replaced(f"{QUERY}.weight_values", lambda v: v.view(np.uint8)),
            f"tensor {QUERY}.weight_values must be float32, but is uint8",
        ),
        (
            "float32",
            put("bert.embeddings.word_embeddings.weight", (2, 2), np.inf),
            "word_embeddings.weight holds NaN or infinity",
        ),
        (
            "float32",
            replaced("bert.embeddings.word_embeddings.weight", lambda w: w.astype(np.int8)),
            r"word_embeddings.weight must be float32 \[50, 32\], but is int8",
        ),
        (
            "float32",
            lambda t: t.update({"bert.embeddings.word_embeddings.weight_scale": np.ones(50, np.float32)}),
            "word_embeddings.weight_scale quantizes to int8, but bert.embeddings.word_embeddings is float32",
        ),
        (
            "float32",
            lambda t: t.update({f"{FLOAT_ATTENTION}.key_scale": np.ones(1, np.float32)}),
            f"tensor {FLOAT_ATTENTION}.key_scale quantizes to int8, but {FLOAT_ATTENTION} is float32",
        ),
        (
            "mixed",
            lambda t: t.update({f"{FLOAT_ATTENTION}.key_scale": np.ones(1, np.float32)}),
            f"tensor {FLOAT_ATTENTION}.query_scale is missing",
        ),
        ("mixed", lambda t: t.pop(f"{INT8_KEY}.weight_scale"), f"tensor {INT8_KEY}.weight_scale is missing"),
        (
            "mixed",
            put(f"{INT8_KEY}.input_scale", 0, 0.5),
            f"query, key and value of {LAYER}.attention have different values of input_scale",
        ),
        (
            "mixed",
            replaced("bert.embeddings.token_type_embeddings.weight", lambda w: w.astype(np.float32)),
            r"token_type_embeddings.weight must be int8 \[2, 32\], but is float32",
        ),
        (
            "int8",
            lambda t: t.update({f"{QUERY}.weight_values": np.ones(32 * 32, np.float32)}),
            "quantization_config.weights is 's8_per_row', but 11 of 12 linear layers are int8",
        ),
        (
            "int8",
            lambda t: [t.pop(f"{LAYER}.attention.{suffix}") for suffix in ("key_scale", "value_scale")],
            f"tensor {LAYER}.attention.key_scale is missing",
        ),
    ],
)
def test_wrong_float_tensors_are_refused(
    tmp_path: Path, numbers: Numbers, change: Callable[[Tensors], Any], message: str
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model", numbers=numbers)
    rewrite(folder, change, numbers)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)


@pytest.mark.parametrize("columns", [36, 62])
def test_padding_bits_of_a_float_mask_must_be_zero(tmp_path: Path, columns: int) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model", numbers="float32", intermediate_size=columns)
    tensors = tiny_tensors(tiny_config("float32", intermediate_size=columns), numbers="float32")
    mask = tensors[f"{DENSE}.weight_mask"].copy()
    mask[3, -1] |= 1 << (columns % 8)
    save_file({**tensors, f"{DENSE}.weight_mask": mask}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{DENSE}.weight_mask has padding bits that are not 0"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("numbers", "entries", "message"),
    [
        ("float32", {"pattern": "dense"}, f"{QUERY} has a sparse weight, but .*pattern is 'dense'"),
        ("float32", {"pattern": "block4"}, f"{QUERY} has a sparse float32 weight, but .* is 'block4'"),
        ("mixed", {"pattern": "block4"}, f"{QUERY} has a sparse float32 weight, but .* is 'block4'"),
        (
            "float32",
            {"weights": "mixed", "activations": "mixed"},
            "quantization_config.weights is 'mixed', but 0 of 12 linear layers are int8",
        ),
        ("float32", {"attention": "mixed"}, "attention is 'mixed', but 0 of 2 attentions are int8"),
        ("float32", {"attention": "int8"}, f"tensor {LAYER}.attention.query_scale is missing"),
        ("float32", {"embeddings": "s8_per_row"}, "word_embeddings.weight_scale is missing"),
        (
            "float32",
            {"weights": "s8_per_row", "activations": "u8_static"},
            "quantization_config.weights is 's8_per_row', but 0 of 12 linear layers are int8",
        ),
        (
            "mixed",
            {"weights": "f32", "activations": "f32"},
            "quantization_config.weights is 'f32', but 8 of 12 linear layers are int8",
        ),
        (
            "mixed",
            {"weights": "s8_per_row", "activations": "u8_static"},
            "quantization_config.weights is 's8_per_row', but 8 of 12 linear layers are int8",
        ),
        ("mixed", {"embeddings": "f32"}, "word_embeddings.weight must be float32"),
        ("mixed", {"attention": "f32"}, f"{LAYER}.attention.query_scale quantizes to int8, but"),
        ("mixed", {"attention": "int8"}, f"tensor {FLOAT_ATTENTION}.query_scale is missing"),
        (
            "int8",
            {"format_version": 2, "weights": "mixed", "activations": "mixed"},
            "weights is 'mixed', but 12 of 12 linear layers are int8",
        ),
        (
            "int8",
            {"format_version": 2, "attention": "mixed"},
            "quantization_config.attention is 'mixed', but 2 of 2 attentions are int8",
        ),
        (
            "int8",
            {"format_version": 2, "attention": "f32"},
            f"{LAYER}.attention.value_scale quantizes to int8, but {LAYER}.attention is float32",
        ),
    ],
)
def test_a_config_that_disagrees_with_the_tensors_is_refused(
    tmp_path: Path, numbers: Numbers, entries: dict[str, Any], message: str
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model", numbers=numbers)
    edit_config(folder, quantization_config={**QUANTIZATION[numbers], **entries})
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)


def test_all_int8_may_say_version_2(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model")
    edit_config(folder, quantization_config={**QUANTIZATION["int8"], "format_version": 2})
    assert read_checkpoint(folder).quantization.numbers == "int8"


def test_all_problems_of_a_mixed_checkpoint_are_told_at_once(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model", numbers="mixed")

    def change(tensors: Tensors) -> None:
        put(f"{QUERY}.weight_values", 0, np.nan)(tensors)
        tensors[f"{QUERY}.weight_scale"] = np.ones(32, np.float32)
        del tensors[f"{INT8_KEY}.input_scale"]
        tensors[f"{LAYER}.attention.query_scale"] = np.float32([-1])

    rewrite(folder, change, "mixed")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(folder)
    assert str(caught.value).splitlines() == [
        f"{folder} is not a sound checkpoint: 4 problems:",
        f"  - tensor {INT8_KEY}.input_scale is missing",
        f"  - tensor {QUERY}.weight_values holds NaN or infinity",
        f"  - tensor {LAYER}.attention.query_scale holds a scale that is not a positive normal number",
        f"  - tensor {QUERY}.weight_scale quantizes to int8, but {QUERY} is float32",
    ]
