"""bfloat16 weights: their bytes, their limits, and what a checkpoint says about them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_checkpoint import Numbers, edit_config, tiny_config, tiny_tensors, write_tiny_checkpoint

from secateur.checkpoint import read_checkpoint, write_checkpoint
from secateur.checkpoint.bfloat16 import BF16, from_bf16, to_bf16
from secateur.checkpoint.codec import decode_float_weight, encode_float_weight
from secateur.checkpoint.tensor_file import read_tensors, write_tensors
from secateur.errors import CheckpointError

QUERY = "bert.encoder.layer.0.attention.self.query"
Tensors = dict[str, np.ndarray]


def bits(*values: float) -> list[int]:
    return [int(value) for value in to_bf16(np.float32(values)).view(np.uint16)]


def test_rounding_is_half_to_even_and_leaves_nothing_tiny() -> None:
    assert bits(1.0, -2.0, 0.0, 3.0) == [0x3F80, 0xC000, 0x0000, 0x4040]
    assert bits(1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20) == [0x3F80, 0x3F82, 0x3F81]
    assert bits(2.0**-50, -(2.0**-50), np.nextafter(np.float32(2.0**-50), np.float32(0))) == [
        0x2680,
        0xA680,
        0,
    ]
    assert bits(3.4e38, -np.inf) == [0x7F80, 0xFF80]
    assert np.isnan(from_bf16(to_bf16(np.float32([np.nan])))).all()


def test_every_value_survives() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(BF16)
    values = from_bf16(every)
    kept = np.isfinite(values) & ((np.abs(values) >= 2.0**-50) | (every.view(np.uint16) == 0))
    np.testing.assert_array_equal(to_bf16(values[kept]), every[kept])


def test_rounding_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).normal(0, 0.1, 10000).astype(np.float32)
    expected = torch.from_numpy(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(from_bf16(to_bf16(values)), expected)


def test_a_matrix_is_encoded_to_these_bytes() -> None:
    weight = np.float32([[1.5, 0, -3, 0, 0, 0, 0, 0, 0, 2], [0, 0, 0, 0.1, 0, 0, 0, 0, 0, 0]])
    encoded = encode_float_weight(weight, weight != 0, bf16=True)
    assert encoded["weight_values"].tobytes() == bytes.fromhex("c03f 40c0 0040 cd3d")
    assert encoded["weight_mask"].tobytes() == bytes.fromhex("0502 0800")
    decoded, mask = decode_float_weight(encoded, 10)
    assert mask is not None
    np.testing.assert_array_equal(mask, weight != 0)
    np.testing.assert_array_equal(
        decoded, np.where(weight == np.float32(0.1), np.float32(0.10009765625), weight)
    )
    dense = encode_float_weight(weight, None, bf16=True)
    assert dense["weight"].dtype == BF16
    np.testing.assert_array_equal(decode_float_weight(dense, 10)[0], decoded)


@pytest.mark.parametrize("density", [0.0, 0.5, None])
def test_what_was_written_is_read(tmp_path: Path, density: float | None) -> None:
    config = tiny_config("bfloat16")
    tensors = tiny_tensors(config, density=density, numbers="bfloat16")
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "model", config, tensors, {}))
    assert checkpoint.quantization.numbers == "bfloat16"
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(checkpoint.tensors[name], tensor)
        assert checkpoint.tensors[name].dtype == tensor.dtype
    content = (tmp_path / "model" / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header[f"{QUERY}.weight" if density is None else f"{QUERY}.weight_values"]["dtype"] == "BF16"


@pytest.mark.parametrize("numbers", ["int8", "float32", "mixed"])
def test_other_files_are_byte_for_byte_those_of_the_library(tmp_path: Path, numbers: Numbers) -> None:
    tensors = tiny_tensors(tiny_config(numbers), numbers=numbers)
    tensors |= {"order": np.arange(3, dtype=np.uint16), "empty": np.zeros((0, 4), np.int8)}
    tensors["strided"] = np.arange(12, dtype=np.float32).reshape(3, 4).T
    save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, tmp_path / "a", {"format": "pt"})
    write_tensors(tmp_path / "b", tensors, {"format": "pt"})
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


def test_torch_reads_the_file(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    load_file = pytest.importorskip("safetensors.torch").load_file
    values = to_bf16(np.random.default_rng(0).normal(0, 1, (3, 5)).astype(np.float32))
    write_tensors(tmp_path / "file", {"b": values, "a": np.ones(2, np.float32)}, {"format": "pt"})
    loaded = load_file(tmp_path / "file")["b"]
    assert loaded.dtype == torch.bfloat16
    np.testing.assert_array_equal(loaded.float().numpy(), from_bf16(values))
    np.testing.assert_array_equal(read_tensors(tmp_path / "file")[0]["b"], values)


def set_bits(name: str, pattern: int) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        array = np.array(tensors[name])
        array.view(np.uint16).reshape(-1)[1] = pattern
        tensors[name] = array

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_bits(f"{QUERY}.weight_values", 0x7FC0), "weight_values holds NaN or infinity"),
        (set_bits(f"{QUERY}.weight_values", 0xFF80), "weight_values holds NaN or infinity"),
        (
            set_bits(f"{QUERY}.weight_values", 0x267F),
            "weight_values holds a bfloat16 below 2\\^-50 that is not 0",
        ),
        (
            set_bits(f"{QUERY}.weight_values", 0x8001),
            "weight_values holds a bfloat16 below 2\\^-50 that is not 0",
        ),
        (
            lambda t: t.update({f"{QUERY}.weight_scale": np.ones(32, np.float32)}),
            f"weight_scale quantizes to int8, but {QUERY} is bfloat16",
        ),
        (
            lambda t: t.update({f"{QUERY}.weight_values": t[f"{QUERY}.weight_values"].view(np.uint16)}),
            "weight_values must be bfloat16, but is uint16",
        ),
        (
            lambda t: t.update({f"{QUERY}.weight_values": t[f"{QUERY}.weight_values"][1:]}),
            "weight_mask keeps .* weights, but .* has another number",
        ),
        (
            lambda t: t.update({"classifier.bias": np.zeros(3, BF16)}),
            r"classifier.bias must be float32 \[3\], but is bfloat16 \[3\]",
        ),
        (
            lambda t: t.update({"bert.embeddings.word_embeddings.weight": np.zeros((50, 32), BF16)}),
            r"word_embeddings.weight must be float32 \[50, 32\], but is bfloat16",
        ),
    ],
)
def test_unsound_tensors_are_refused(tmp_path: Path, change: Callable[[Tensors], None], message: str) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model", numbers="bfloat16")
    tensors, _ = read_tensors(folder / "model.safetensors")
    change(tensors)
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"weights": "f32", "activations": "f32"},
            "weights is 'f32', but 0 of 12 linear layers are int8 and 12 bf",
        ),
        ({"weights": "mixed", "activations": "mixed"}, "weights is 'mixed', but 0 of 12 linear layers"),
        ({"activations": "f32"}, "activations: must be 'bf16' where weights are 'bf16'"),
        ({"format_version": 2}, "weights: input should be 's8_per_row', 'f32' or 'mixed', but it is 'bf16'"),
        (
            {"format_version": 2, "weights": "mixed", "activations": "mixed"},
            "is bfloat16, which format version 3 is the first to have",
        ),
        ({"pattern": "block4"}, "has a sparse bfloat16 weight, but quantization_config.pattern is 'block4'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    tmp_path: Path, entries: dict[str, object], message: str
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model", numbers="bfloat16")
    quantization = json.loads((folder / "config.json").read_text())["quantization_config"]
    edit_config(folder, quantization_config={**quantization, **entries})
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)
