"""Tiny random checkpoints in pure numpy, for tests of everything that reads one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from secateur.affine import symmetric_scale
from secateur.checkpoint import (
    FAMILIES,
    Int8Parts,
    encode_float_weight,
    encode_weight,
    linear_names,
    tensor_name,
    write_checkpoint,
)
from secateur.checkpoint.parts import expected_linears
from secateur.checkpoint.shape import parse_labels, parse_shape

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *["book", "me", "a", "table", "for", "two", "tonight", "what", "is", "the", "time"],
]

Numbers = Literal["int8", "float32", "mixed", "bfloat16", "dynamic", "mixed inputs"]

QUANTIZATION: dict[Numbers, dict[str, Any]] = {
    "int8": {
        "quant_method": "secateur",
        "format_version": 1,
        "pattern": "block4",
        "sparsity": 0.5,
        "weights": "s8_per_row",
        "activations": "u8_static",
        "embeddings": "s8_per_row",
        "attention": "int8",
    },
    "float32": {
        "quant_method": "secateur",
        "format_version": 2,
        "pattern": "unstructured",
        "sparsity": 0.5,
        "weights": "f32",
        "activations": "f32",
        "embeddings": "f32",
        "attention": "f32",
    },
    "mixed": {
        "quant_method": "secateur",
        "format_version": 2,
        "pattern": "unstructured",
        "sparsity": 0.5,
        "weights": "mixed",
        "activations": "mixed",
        "embeddings": "s8_per_row",
        "attention": "mixed",
    },
}
QUANTIZATION["bfloat16"] = QUANTIZATION["float32"] | {
    "format_version": 3,
    "weights": "bf16",
    "activations": "bf16",
}
QUANTIZATION["dynamic"] = QUANTIZATION["int8"] | {"format_version": 4, "activations": "s8_dynamic"}
QUANTIZATION["mixed inputs"] = QUANTIZATION["dynamic"] | {"activations": "mixed"}


def int8_parts(numbers: Numbers, num_layers: int = 2, family: str = "bert", group: int = 1) -> Int8Parts:
    """Returns what is int8 in a tiny checkpoint.

    In a mixed one, layers with an even number have a float query and ffn_out and attend in int8, the others
    have a float attn_out and ffn_in and attend in float32. One with mixed inputs is int8 throughout; the
    inputs of its attn_out and ffn_in are dynamic in layers with an even number, the others in other layers.
    """
    everything = [("query", "key", "value", "attn_out", "ffn_in", "ffn_out")] * 2
    dynamic_roles = {
        "dynamic": everything,
        "mixed inputs": [("attn_out", "ffn_in"), ("query", "key", "value", "ffn_out")],
    }.get(numbers, [(), ()])
    kept = {
        "int8": everything,
        "dynamic": everything,
        "mixed inputs": everything,
        "float32": [(), ()],
        "bfloat16": [(), ()],
        "mixed": [("key", "value", "attn_out", "ffn_in"), ("query", "key", "value", "ffn_out")],
    }[numbers]
    names = [linear_names(layer, family, group) for layer in range(num_layers)]
    linears = {name.linears[role] for layer, name in enumerate(names) for role in kept[layer % 2]}
    dynamic = {name.linears[role] for layer, name in enumerate(names) for role in dynamic_roles[layer % 2]}
    attends = {"mixed": (True, False), "float32": (False, False), "bfloat16": (False, False)}.get(
        numbers, (True, True)
    )
    attention = {name.attention for layer, name in enumerate(names) if attends[layer % 2]}
    all_linears = {module for name in names for module in name.linears.values()}
    bf16 = all_linears if numbers == "bfloat16" else set()
    tables = numbers not in ("float32", "bfloat16")
    return Int8Parts(frozenset(linears), frozenset(attention), tables, frozenset(bf16), frozenset(dynamic))


def tiny_config(numbers: Numbers = "int8", **changes: Any) -> dict[str, Any]:
    """Returns the config.json of a two-layer BERT with hidden size 32; `changes` go on top."""
    config: dict[str, Any] = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 50,
        "max_position_embeddings": 24,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "id2label": {"0": "alarm", "1": "table", "2": "time"},
        "label2id": {"alarm": 0, "table": 1, "time": 2},
        "quantization_config": dict(QUANTIZATION[numbers]),
    }
    return {**config, **changes}


def family_config(
    family: str, end: str = "ForSequenceClassification", numbers: Numbers = "int8", **changes: Any
) -> dict[str, Any]:
    """Returns the config.json of a tiny model of any family and task head; `changes` go on top."""
    layout = FAMILIES[family]
    config = {layout.key(name): value for name, value in tiny_config(numbers).items()}
    config |= {"model_type": family, "architectures": [f"{layout.class_name}{end}"]}
    config["quantization_config"]["format_version"] = max(3, QUANTIZATION[numbers]["format_version"])
    if layout.projection is not None:
        config["embedding_size"] = 24
    if layout.inner_layers is not None:
        config |= {"num_hidden_layers": 4, "num_hidden_groups": 2}
    if layout.counts_padding:
        config |= {"pad_token_id": 1, "max_position_embeddings": 26, "type_vocab_size": 1}
    if not layout.heads[end].labels:
        del config["id2label"], config["label2id"]
    if end == "Model":
        config["sentence_embedding"] = {"pooling": "mean", "normalize": True}
    return {**config, **changes}


def tiny_tensors(
    config: dict[str, Any], seed: int = 0, density: float | None = 0.5, numbers: Numbers = "int8"
) -> dict[str, np.ndarray]:
    """Returns every tensor of a checkpoint, random but of natural size.

    Args:
        config: A config.json.
        seed: Of the random numbers.
        density: Share of blocks (of weights, where they are float32) kept in every linear weight; None
            stores all of them dense.
        numbers: See `int8_parts`.
    """
    random = np.random.default_rng(seed)
    shape = parse_shape(config, "tiny")
    num_labels = len(parse_labels(config, shape, "tiny"))
    int8 = int8_parts(numbers, len(shape.stored_layers), shape.family, shape.layers_per_group)
    hidden = shape.hidden_size
    tensors: dict[str, np.ndarray] = {}

    def normal(*size: int, std: float = 1.0, mean: float = 0.0) -> np.ndarray:
        return random.normal(mean, std, size).astype(np.float32)

    def put(module: str, **arrays: Any) -> None:
        for suffix, array in arrays.items():
            tensors[tensor_name(module, suffix)] = np.asarray(array)

    embeddings, wide = shape.embeddings, shape.embedding_size
    for kind, module in embeddings.tables.items():
        table = normal(shape.table_rows[kind], wide, std=0.5)
        if not int8.embeddings:
            put(module, weight=table)
            continue
        scale = symmetric_scale(np.abs(table).max(axis=1))
        put(module, **encode_weight(table, None, scale), weight_scale=scale)
    put(embeddings.norm, weight=normal(1, wide, std=0.1, mean=1), bias=normal(1, wide, std=0.1))
    if embeddings.projection is not None:
        put(embeddings.projection, weight=normal(hidden, wide, std=wide**-0.5), bias=normal(hidden, std=0.1))

    for role, module, out_features, in_features in expected_linears(shape):
        weight = normal(out_features, in_features, std=1.5 / np.sqrt(in_features))
        mask = None
        block = 4 if module in int8.linears else 1
        if density is not None:
            blocks = random.random((out_features, in_features // block)) < density
            mask = np.repeat(blocks, block, axis=1)
        if module not in int8.linears:
            bf16 = module in int8.bf16
            put(module, **encode_float_weight(weight, mask, bf16), bias=normal(out_features, std=0.3))
            continue
        scale = symmetric_scale(np.abs(weight).max(axis=1))
        put(module, **encode_weight(weight, mask, scale), weight_scale=scale)
        spread = {"attn_out": 2.0, "ffn_out": 3.0}.get(role, 8.0)
        low = 0.2 if role == "ffn_out" else spread / 2
        put(module, bias=normal(out_features, std=0.3))
        if module not in int8.dynamic:
            put(module, input_scale=np.float32([spread / 255]))
            put(module, input_zero_point=np.uint8([low / spread * 255]))
    for modules in shape.stored_layers:
        if modules.attention in int8.attention:
            put(modules.attention, query_scale=np.float32([0.03]), query_zero_point=np.uint8([131]))
            put(modules.attention, key_scale=np.float32([0.04]), value_scale=np.float32([0.035]))
        for norm in (modules.attn_norm, modules.ffn_norm):
            put(norm, weight=normal(hidden, std=0.1, mean=1), bias=normal(hidden, std=0.1))

    head, inner = shape.head, shape.head_size
    outputs = num_labels if shape.num_outputs is None else shape.num_outputs
    if head.dense is not None:
        put(head.dense, weight=normal(inner, hidden, std=0.2), bias=normal(inner, std=0.1))
    if head.norm is not None:
        put(head.norm, weight=normal(inner, std=0.1, mean=1), bias=normal(inner, std=0.1))
    if head.output is not None and head.decoder is None:
        put(head.output, weight=normal(outputs, inner, std=0.5))
    if head.output is not None:
        put(head.output, bias=normal(outputs, std=0.1))
    return tensors


def tiny_tokenizer() -> bytes:
    """Returns a tokenizer.json that splits at spaces, with [CLS] and [SEP], and pads as all-MiniLM's does."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", WORDS.index("[CLS]")), ("[SEP]", WORDS.index("[SEP]"))],
    )
    tokenizer.enable_padding(length=8)
    tokenizer.enable_truncation(8)
    return tokenizer.to_str().encode()


def write_tiny_checkpoint(
    folder: Path,
    seed: int = 0,
    density: float | None = 0.5,
    numbers: Numbers = "int8",
    **changes: Any,
) -> Path:
    """Writes a tiny checkpoint with tokenizer; `changes` go into config.json."""
    config = tiny_config(numbers, **changes)
    tensors = tiny_tensors(config, seed, density, numbers)
    return write_checkpoint(
        folder, config, tensors, {"tokenizer.json": tiny_tokenizer()}, metrics={"seed": seed}
    )


def edit_config(folder: Path, **changes: Any) -> None:
    """Changes entries of a written config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
