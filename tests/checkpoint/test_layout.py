from __future__ import annotations

import numpy as np
import pytest
from tiny_checkpoint import QUANTIZATION, Numbers, int8_parts, tiny_config, tiny_tensors

from secateur.checkpoint import QuantizationConfig, find_int8_parts, linear_names, quantization_of
from secateur.checkpoint.config import parse_quantization
from secateur.checkpoint.shape import parse_shape

SHAPE = parse_shape(tiny_config(), "tiny")


@pytest.mark.parametrize("numbers", ["int8", "float32", "mixed"])
@pytest.mark.parametrize("announced", [True, False])
def test_what_is_int8_is_found(numbers: Numbers, announced: bool) -> None:
    config = tiny_config(numbers)
    quantization = parse_quantization(config, "tiny") if announced else None
    tensors = tiny_tensors(config, numbers=numbers)
    assert find_int8_parts(tensors, SHAPE, quantization) == int8_parts(numbers)


@pytest.mark.parametrize("numbers", ["int8", "float32", "mixed"])
def test_tensors_tell_their_config(numbers: Numbers) -> None:
    """Key by key and in this order: config.json of version 1 keeps its bytes."""
    found = quantization_of(tiny_tensors(tiny_config(), numbers=numbers), SHAPE, 0.5)
    assert list(found.model_dump().items()) == list(QUANTIZATION[numbers].items())
    assert found.numbers == numbers


@pytest.mark.parametrize(
    ("numbers", "density", "pattern"),
    [("int8", None, "dense"), ("float32", None, "dense"), ("mixed", None, "dense"), ("int8", 0.5, "block4")],
)
def test_the_pattern_is_that_of_what_is_stored(numbers: Numbers, density: float | None, pattern: str) -> None:
    tensors = tiny_tensors(tiny_config(), density=density, numbers=numbers)
    assert quantization_of(tensors, SHAPE, 0.0).pattern == pattern


def test_float_tables_alone_need_version_2() -> None:
    tensors = tiny_tensors(tiny_config())
    for kind in ("word", "position", "token_type"):
        module = f"bert.embeddings.{kind}_embeddings"
        tensors[f"{module}.weight"] = tensors[f"{module}.weight"].astype(np.float32)
        del tensors[f"{module}.weight_scale"]
    found = quantization_of(tensors, SHAPE, 0.5)
    expected = QuantizationConfig(format_version=2, pattern="block4", sparsity=0.5, embeddings="f32")
    assert found == expected
    assert found.numbers == "mixed"


def test_a_float_attention_alone_needs_version_2() -> None:
    tensors = tiny_tensors(tiny_config())
    module = linear_names(1).attention
    for suffix in ("query_scale", "query_zero_point", "key_scale", "value_scale"):
        del tensors[f"{module}.{suffix}"]
    found = quantization_of(tensors, SHAPE, 0.5)
    assert (found.format_version, found.weights, found.attention) == (2, "s8_per_row", "mixed")
