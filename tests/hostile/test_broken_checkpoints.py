"""Every way in which docs/format.md says a checkpoint can be wrong, and random damage on top."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import DENSE, LAYER, QUERY, Tensors, put, replaced, rewrite
from tiny_checkpoint import (
    Numbers,
    edit_config,
    tiny_config,
    tiny_tensors,
    write_tiny_checkpoint,
)

from secateur.checkpoint import read_checkpoint
from secateur.errors import CheckpointError, SecateurError, UnsupportedError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "model")


def _fill_mask_padding(tensors: Tensors) -> None:
    # 36 input features are 9 blocks: 7 bits of the second byte are padding
    config = tiny_config(intermediate_size=36)
    tensors.clear()
    tensors.update(tiny_tensors(config))
    mask = tensors[f"{DENSE}.weight_mask"].copy()
    mask[3, -1] |= 0b1000_0000
    tensors[f"{DENSE}.weight_mask"] = mask


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("classifier.bias"), "tensor classifier.bias is missing"),
        (lambda t: t.pop(f"{QUERY}.input_scale"), f"tensor {QUERY}.input_scale is missing"),
        (lambda t: t.pop(f"{QUERY}.weight_mask"), f"tensor {QUERY}.weight_mask is missing"),
        (lambda t: t.pop(f"{QUERY}.weight_values"), f"tensor {QUERY}.weight_values is missing"),
        (
            lambda t: [t.pop(f"{QUERY}.weight_values"), t.pop(f"{QUERY}.weight_mask")],
            f"tensor {QUERY}.weight is missing",
        ),
        (lambda t: t.update(extra=np.zeros(1, np.int8)), "tensor extra is not part of the format"),
        (
            lambda t: t.update({f"{QUERY}.weight": np.zeros((32, 32), np.int8)}),
            f"{QUERY} has both a dense and a sparse weight",
        ),
        (
            replaced("classifier.weight", lambda w: w[:, :-1]),
            r"tensor classifier.weight must be float32 \[3, 32\], but is float32 \[3, 31\]",
        ),
        (
            replaced("classifier.weight", lambda w: w.astype(np.int8)),
            r"must be float32 \[3, 32\], but is int8 \[3, 32\]",
        ),
        (
            replaced("bert.embeddings.LayerNorm.weight", lambda w: w[0]),
            r"LayerNorm.weight must be float32 \[1, 32\], but is float32 \[32\]",
        ),
        (
            replaced("bert.embeddings.word_embeddings.weight", lambda w: w[:-1]),
            r"word_embeddings.weight must be int8 \[50, 32\]",
        ),
        (replaced(f"{QUERY}.weight_mask", lambda m: m[:, :0]), r"weight_mask must be uint8 \[32, 1\]"),
        (
            replaced(f"{QUERY}.weight_values", lambda v: v[1:]),
            f"{QUERY}.weight_mask keeps .* blocks, but {QUERY}.weight_values has another number",
        ),
        (
            replaced(f"{QUERY}.weight_values", lambda v: v.reshape(-1, 2)),
            "weight_mask keeps .* blocks, but .* another number",
        ),
        (replaced(f"{QUERY}.weight_values", lambda v: v[:, :2]), r"weight_values must be int8 \[\d+, 4\]"),
        (put(f"{QUERY}.weight_mask", (0, 0), 0), "weight_mask keeps .* blocks"),
        (put(f"{QUERY}.weight_values", (0, 0), -128), "weight_values holds -128"),
        (put("bert.embeddings.position_embeddings.weight", (0, 0), -128), "holds -128"),
        (put(f"{QUERY}.bias", 3, np.nan), f"tensor {QUERY}.bias holds NaN or infinity"),
        (put("bert.pooler.dense.weight", (0, 0), np.inf), "pooler.dense.weight holds NaN or infinity"),
        (
            put(f"{QUERY}.weight_scale", 0, 0.0),
            "weight_scale holds a scale that is not a positive normal",
        ),
        (
            put(f"{LAYER}.attention.key_scale", 0, -0.1),
            "key_scale holds a scale that is not a positive",
        ),
        (put(f"{QUERY}.weight_scale", 0, 1e-45), "not a positive normal number"),
        (put(f"{QUERY}.input_scale", 0, np.inf), "input_scale holds NaN or infinity"),
        (
            put(f"{QUERY}.input_scale", 0, 0.5),
            f"query, key and value of {LAYER}.attention have different values of input_scale",
        ),
        (
            put(f"{LAYER}.attention.self.key.input_zero_point", 0, 1),
            "different values of input_zero_point",
        ),
        (replaced(f"{QUERY}.bias", lambda b: b.astype(np.float16)), "tensors of type F16"),
    ],
)
def test_wrong_tensors_are_refused(folder: Path, change: Callable[[Tensors], Any], message: str) -> None:
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)


def test_padding_bits_must_be_zero(folder: Path) -> None:
    edit_config(folder, intermediate_size=36)
    rewrite(folder, _fill_mask_padding)
    with pytest.raises(CheckpointError, match=f"{DENSE}.weight_mask has padding bits that are not 0"):
        read_checkpoint(folder)


def test_a_sparse_weight_needs_whole_blocks(folder: Path) -> None:
    edit_config(folder, intermediate_size=62)
    with pytest.raises(
        CheckpointError, match=f"{DENSE} has a sparse weight, but its 62 inputs are not a mult"
    ):
        read_checkpoint(folder)


def test_a_sparse_weight_needs_its_pattern(folder: Path) -> None:
    edit_config(folder, quantization_config={**tiny_config()["quantization_config"], "pattern": "dense"})
    with pytest.raises(CheckpointError, match=f"{QUERY} has a sparse weight, but .*pattern is 'dense'"):
        read_checkpoint(folder)


def test_all_problems_are_told_at_once(folder: Path) -> None:
    rewrite(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "layer.1" in name])
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(folder)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{folder} is not a sound checkpoint: 38 problems:"
    assert len(lines) == 22
    assert lines[-1] == "  - and 18 more"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": None}, "an ordinary Hugging Face model.*secateur compress --model"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized by 'gptq'"),
        ({"quantization_config": 3}, "quantized by 3"),
        (
            {"quantization_config": {"quant_method": "secateur", "format_version": 5}},
            "has format version 5, and this Secateur reads versions 1 to 4: install",
        ),
        (
            {"quantization_config": {"quant_method": "secateur", "format_version": [2]}},
            r"has format version \[2\], and",
        ),
        (
            {"quantization_config": {"quant_method": "secateur", "format_version": True}},
            "has format version True, and",
        ),
        (
            {"quantization_config": {"quant_method": "secateur", "format_version": 1, "weights": "f32"}},
            "quantization_config.weights: input should be 's8_per_row', but it is 'f32'",
        ),
        (
            {
                "quantization_config": {
                    "quant_method": "secateur",
                    "format_version": 1,
                    "pattern": "unstructured",
                }
            },
            "quantization_config.pattern: input should be 'block4' or 'dense', but it is 'unstructured'",
        ),
        (
            {"quantization_config": {"quant_method": "secateur", "format_version": 2, "weights": "bf16"}},
            "quantization_config.weights: input should be 's8_per_row', 'f32' or 'mixed', but it is 'bf16'",
        ),
        (
            {"quantization_config": {"quant_method": "secateur", "format_version": 2, "weights": "f32"}},
            "quantization_config.activations: must be 'f32' where weights are 'f32', but it is 'u8_static'",
        ),
        (
            {
                "quantization_config": {
                    "quant_method": "secateur",
                    "format_version": 2,
                    "activations": "mixed",
                }
            },
            "activations: must be 'u8_static' where weights are 's8_per_row', but it is 'mixed'",
        ),
        (
            {"quantization_config": {"quant_method": "secateur", "format_version": 2, "embeddings": "mixed"}},
            "quantization_config.embeddings: input should be 's8_per_row' or 'f32', but it is 'mixed'",
        ),
        ({"quantization_config": {"quant_method": "secateur"}}, "has format version None"),
        (
            {"quantization_config": {"quant_method": "secateur", "format_version": 1, "zeal": 1}},
            "quantization_config.zeal: extra inputs are not permitted, but it is 1",
        ),
        (
            {"quantization_config": {"quant_method": "secateur", "format_version": 1, "sparsity": 80}},
            "quantization_config.sparsity: input should be less than or equal to 1, but it is 80",
        ),
        ({"hidden_size": 0}, "hidden_size must be an integer from 1 to 2147483647, but is 0"),
        ({"hidden_size": 2**40}, "hidden_size must be an integer"),
        ({"hidden_size": "32"}, "hidden_size must be an integer .* but is '32'"),
        ({"vocab_size": True}, "vocab_size must be an integer .* but is True"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be an integer from 1 to 1000"),
        ({"num_attention_heads": 5}, "hidden_size 32 is not a multiple of num_attention_heads 5"),
        ({"layer_norm_eps": 0}, "layer_norm_eps must lie between 1.2e-38 and 1, but is 0"),
        ({"layer_norm_eps": 1e-40}, "layer_norm_eps must lie between 1.2e-38 and 1, but is 1e-40"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps must lie between 1.2e-38 and 1, but is nan"),
        ({"layer_norm_eps": 10**400}, "layer_norm_eps must lie between 1.2e-38 and 1, but is 1000"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "must give the numbers 0, 1, 2, ... distinct names"),
        ({"id2label": {"0": "a", "2": "b"}}, "distinct names"),
        ({"id2label": {"0": 1}}, "distinct names"),
        ({"id2label": {}}, "distinct names"),
        ({"id2label": ["a", "b"]}, "distinct names"),
        ({"id2label": {"0": "a", "1": "b"}}, r"classifier.weight must be float32 \[2, 32\]"),
        ({"hidden_size": 64}, r"must be int8 \[50, 64\]"),
        ({"num_hidden_layers": 1}, r"layer\.1\..* is not part of the format"),
    ],
)
def test_a_wrong_config_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "of the family 'gpt2'; supported: bert, roberta"),
        ({"model_type": ["bert"]}, "supported: bert"),
        ({"model_type": "mpnet"}, r"of the family 'mpnet' \(its attention adds a bias"),
        (
            {"architectures": ["BertForMultipleChoice"]},
            "BertForMultipleChoice; supported: BertForSequenceClassification",
        ),
        ({"hidden_act": "swish"}, "activation 'swish'; supported: gelu, gelu_new, relu"),
        ({"hidden_act": ["gelu"]}, "supported: gelu, gelu_new, relu"),
        ({"position_embedding_type": "relative_key"}, "position embeddings of type 'relative_key'"),
        ({"is_decoder": True}, "sets is_decoder"),
        ({"pruned_heads": {"0": [1]}}, "pruned heads"),
    ],
)
def test_what_this_version_cannot_run_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(UnsupportedError, match=message):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b'{"a": ', "is not valid JSON"),
        (b"\xff\xfe{}", "is not valid JSON"),
        (b"[]", "must hold a JSON object"),
        (b'{"a":' * 50_000, "nested too deeply"),
    ],
)
def test_an_unreadable_config_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)


def test_missing_files_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        read_checkpoint(folder)
    (folder / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        read_checkpoint(folder)
    with pytest.raises(CheckpointError, match="is not a folder"):
        read_checkpoint(folder / "model")


def _header(folder: Path, header: bytes, length: int | None = None) -> None:
    size = len(header) if length is None else length
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", size) + header)


def test_a_forged_header_is_refused(folder: Path) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    headers = [
        b"",
        b"{",
        b"[]",
        b"{}",
        json.dumps({"a": entry}).encode(),  # points past the end
        json.dumps({"a": {**entry, "shape": [2**62]}}).encode(),
        json.dumps({"a": {**entry, "data_offsets": [8, 0]}}).encode(),
        json.dumps({"a": {**entry, "dtype": "OBJECT"}}).encode(),
        b'{"a":' * 20_000,
    ]
    for header in headers:
        _header(folder, header)
        with pytest.raises(CheckpointError):
            read_checkpoint(folder)
    for length in (2**63, 2**64 - 1, 100, 0):
        _header(folder, b"{}", length)
        with pytest.raises(CheckpointError):
            read_checkpoint(folder)


def test_every_truncation_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for size in [0, 1, 7, 8, 9, 100, *range(1000, len(data), 997), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            read_checkpoint(folder)


def test_misaligned_tensors_are_read_all_the_same(folder: Path) -> None:
    """A header may be padded to any length by other writers; numbers must not be misread."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    path.write_bytes(struct.pack("<Q", size + 1) + data[8 : 8 + size] + b" " + data[8 + size :])
    tensors = read_checkpoint(folder).tensors
    for name, tensor in tiny_tensors(tiny_config()).items():
        np.testing.assert_array_equal(tensors[name], tensor)
        assert tensors[name].flags.aligned


@pytest.mark.parametrize("numbers", ["int8", "float32", "mixed"])
def test_random_damage_never_does_more_than_raise(tmp_path: Path, numbers: Numbers) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model", numbers=numbers)
    engine_module = pytest.importorskip("secateur._engine")
    assert engine_module is not None
    from secateur import Engine

    random = np.random.default_rng(0)
    originals = {name: (folder / name).read_bytes() for name in ("model.safetensors", "config.json")}
    header_size = 8 + struct.unpack("<Q", originals["model.safetensors"][:8])[0]
    loaded = 0
    for trial in range(300):
        name = "config.json" if trial % 3 == 0 else "model.safetensors"
        damaged = bytearray(originals[name])
        end = header_size if trial % 3 == 1 else len(damaged)
        for position in random.integers(0, end, random.integers(1, 4)):
            damaged[position] = random.integers(0, 256)
        (folder / name).write_bytes(bytes(damaged))
        try:
            logits = Engine.from_pretrained(folder, num_threads=1)([[1, 2, 3], [4]])
        except SecateurError:
            pass
        else:
            loaded += 1
            assert logits.shape[0] == 2
        (folder / name).write_bytes(originals[name])
    assert loaded > 20
