"""Whole files of every format version, byte by byte. What stands here must never change."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoint import Numbers, int8_parts

from secateur.affine import symmetric_scale
from secateur.checkpoint import encode_float_weight, encode_weight, quantization_of, write_checkpoint
from secateur.checkpoint.parts import expected_linears
from secateur.checkpoint.shape import parse_shape

Tensors = dict[str, np.ndarray]

CONFIG: dict[str, Any] = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 6,
    "max_position_embeddings": 5,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "id2label": {"0": "no", "1": "yes"},
    "label2id": {"no": 0, "yes": 1},
}

# numbers -> version, sha256 of model.safetensors, sha256 of config.json. Those of versions 1 to 3 were taken
# with the code that had no version 4.
GOLDEN: dict[Numbers, tuple[int, str, str]] = {
    "int8": (
        1,
        "c8f6efad4d710b6a07d4cb89210ea23adbb4f924988ebb9ecde777c89aad10be",
        "b72503b54d4d487565807dd72a4c05e884a3bdcafe2ec86bc41b03994053e547",
    ),
    "float32": (
        2,
        "a10f5081a3dc21ddf28e3af8acb3edde64c9f27580efc6603ac29321d61830c5",
        "34cae57102fa7140cab3ecea6b5fb2f549c498a8c2ad9104366a53c6e1d05d6c",
    ),
    "mixed": (
        2,
        "f6be1667fedef56b06252ce6520ab1dba29a2c48e2f2737c06c2e9ed66f02425",
        "b0bd1477314c9b2075b4e59c61c9eeaff37c9062e8d989907acf42c263fc7580",
    ),
    "bfloat16": (
        3,
        "773601ba90bf35c239d9cd5a9f0fdd0f04dc22edc0797882e4cba97b78881d7c",
        "f3fd96f8e2fb5a8398f79b55806ea7d5e94e39ecaa2cf67aa2bec083734f05ff",
    ),
    "dynamic": (
        4,
        "42bd02637be26bd6c8ca4db35703c8a3d692af0d71858197199936d0000924e2",
        "ba0a54eed6e195f786a75468979602fd8a22b6a6ab15921fc30987b8d7250114",
    ),
    "mixed inputs": (
        4,
        "b07aff23cdc34faea20457bffe6a3e5e139ce07d5f53c8e15630ac64f55bfead",
        "dcd67cd50659e877ab0bcd7ba42c243b27be7ca5dce04c0751396ef60985dada",
    ),
}


def _numbers(*shape: int) -> np.ndarray:
    """Returns numbers that need no random generator: -0.5 to 0.5, no two neighbours alike."""
    count = int(np.prod(shape))
    return ((np.arange(count, dtype=np.int64) * 37 % 101 - 50) / 100).astype(np.float32).reshape(shape)


def golden_tensors(numbers: Numbers) -> Tensors:
    """Returns a model whose every other block is kept."""
    shape = parse_shape(CONFIG, "golden")
    int8 = int8_parts(numbers)
    tensors: Tensors = {}

    def put(module: str, **arrays: Any) -> None:
        tensors.update({f"{module}.{suffix}": np.asarray(array) for suffix, array in arrays.items()})

    for kind, module in shape.embeddings.tables.items():
        table = _numbers(shape.table_rows[kind], 8)
        scale = symmetric_scale(np.abs(table).max(axis=1))
        if int8.embeddings:
            put(module, **encode_weight(table, None, scale), weight_scale=scale)
        else:
            put(module, weight=table)
    put(shape.embeddings.norm, weight=_numbers(1, 8) + 1, bias=_numbers(1, 8))
    for _, module, rows, columns in expected_linears(shape):
        weight, width = _numbers(rows, columns), 4 if module in int8.linears else 1
        blocks = np.arange(rows * columns // width).reshape(rows, -1) % 3 == 0
        mask = np.repeat(blocks, width, axis=1)
        put(module, bias=_numbers(rows))
        if module not in int8.linears:
            put(module, **encode_float_weight(weight, mask, module in int8.bf16))
            continue
        scale = symmetric_scale(np.abs(weight).max(axis=1))
        put(module, **encode_weight(weight, mask, scale), weight_scale=scale)
        if module not in int8.dynamic:
            put(module, input_scale=np.float32([0.03]), input_zero_point=np.uint8([120]))
    for names in shape.stored_layers:
        if names.attention in int8.attention:
            put(names.attention, query_scale=np.float32([0.02]), query_zero_point=np.uint8([130]))
            put(names.attention, key_scale=np.float32([0.01]), value_scale=np.float32([0.04]))
        for norm in (names.attn_norm, names.ffn_norm):
            put(norm, weight=_numbers(8) + 1, bias=_numbers(8))
    put("bert.pooler.dense", weight=_numbers(8, 8), bias=_numbers(8))
    put("classifier", weight=_numbers(2, 8), bias=_numbers(2))
    return tensors


def write_golden(folder: Path, numbers: Numbers) -> tuple[int, str, str]:
    """Writes a folder; returns its version and the digests of its files."""
    tensors = golden_tensors(numbers)
    entry = quantization_of(tensors, parse_shape(CONFIG, "golden"), 2 / 3).model_dump()
    write_checkpoint(folder, {**CONFIG, "quantization_config": entry}, tensors, {})
    digests = [
        hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("model.safetensors", "config.json")
    ]
    return entry["format_version"], digests[0], digests[1]


@pytest.mark.parametrize("numbers", GOLDEN)
def test_files_keep_their_bytes(tmp_path: Path, numbers: Numbers) -> None:
    assert write_golden(tmp_path / "model", numbers) == GOLDEN[numbers]


def test_version_4_spelled_out(tmp_path: Path) -> None:
    """A static model without its ranges, and three words in config.json."""
    write_golden(tmp_path / "static", "int8")
    write_golden(tmp_path / "dynamic", "dynamic")
    static, dynamic = golden_tensors("int8"), golden_tensors("dynamic")
    assert sorted(set(static) - set(dynamic)) == sorted(
        name for name in static if name.endswith((".input_scale", ".input_zero_point"))
    )
    assert len(static) - len(dynamic) == 2 * 12
    assert all(dynamic[name].tobytes() == static[name].tobytes() for name in dynamic)
    configs = [
        json.loads((tmp_path / name / "config.json").read_text())["quantization_config"]
        for name in ("static", "dynamic")
    ]
    assert configs[1] == {**configs[0], "format_version": 4, "activations": "s8_dynamic"}
    header = (tmp_path / "dynamic" / "model.safetensors").read_bytes()
    assert b"input_scale" not in header
    assert b"input_zero_point" not in header
