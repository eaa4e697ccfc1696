"""Writes a PyTorch model as a checkpoint: the file holds what the model computed with, in int8 or float32."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.affine import S8_MAX, S8_MIN, quantize, symmetric_scale
from secateur.checkpoint import (
    FAMILIES,
    LayerNames,
    ModelShape,
    check_target,
    encode_float_weight,
    encode_weight,
    quantization_of,
    tensor_name,
    write_checkpoint,
)
from secateur.checkpoint import names as keys
from secateur.checkpoint.column_order import layer_orders
from secateur.checkpoint.shape import parse_shape
from secateur.errors import SecateurError, StructureError, UnsupportedError, problem_list
from secateur.export.card import model_card
from secateur.modeling.structure import (
    EncoderBlock,
    Projection,
    find_architecture,
    find_blocks,
    find_module,
)
from secateur.quantization.dynamic import DynamicQuantizer
from secateur.quantization.observer import ActivationQuantizer
from secateur.quantization.qat import (
    attention_quantizer,
    find_embeddings,
    idle_quantizers,
    input_quantizer,
    rows_enabled,
)
from secateur.sparsity.mask import find_mask, unquantized_weight

__all__ = ["export_checkpoint"]

Tensors = dict[str, NDArray[Any]]

_TOKENIZER_FILE = "tokenizer.json"
_TOKENIZER_FILES = (_TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
# What tokenizer_config.json says about the machine and about one padded training run, not about the model.
_TRACES = {
    *("name_or_path", "is_local", "local_files_only"),
    *("max_length", "pad_to_multiple_of", "stride", "truncation_strategy"),
}


def export_checkpoint(
    model: nn.Module,
    tokenizer: Any,
    out: str | os.PathLike[str],
    recipe: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    weights: Literal["f32", "bf16"] = "f32",
) -> Path:
    """Writes a checkpoint folder from a live model, all of it or nothing.

    What has quantizers is written as int8, the rest as float32: a model without any gives a float32
    checkpoint, pruned or dense. Linear layers without quantizers may be rounded to bfloat16 instead.

    Args:
        model: A model of a supported family with one of its task heads, or without any for sentence
            embeddings; `model.config.sentence_embedding` then says how they are made of the tokens. Ranges of
            quantizers that it has were observed.
        tokenizer: Its fast tokenizer; padding and truncation are left out of what is written.
        out: Where to write; an older checkpoint there is replaced.
        recipe: The resolved recipe as YAML.
        metrics: What was measured; goes into metrics.json and the model card.
        weights: How the encoder's linear layers without quantizers are written: `f32`, or `bf16` for half the
            bytes, which then also rounds what they multiply.

    Returns:
        The folder.

    Raises:
        StructureError: If a quantizer is switched off, never observed or no longer used; names every one.
        CheckpointError: If something that is no checkpoint lies at `out`, or a tensor is not finite.
        UnsupportedError: If the model or the tokenizer cannot be written in this format.
    """
    if weights not in ("f32", "bf16"):
        raise UnsupportedError(f"The weights cannot be written as {weights!r}: give 'f32' or 'bf16'.")
    check_target(out)
    blocks = find_blocks(model)
    config = _config(model)
    shape = parse_shape(config, type(model).__name__)
    _check_modules(model, blocks, shape)
    tensors: Tensors = {}
    problems = [f"{name} is no longer used by all its layers" for name in idle_quantizers(model)]
    kept = total = 0
    for names, block in zip(shape.stored_layers, blocks, strict=True):
        _put_attention(tensors, names, model, block, problems)
        projections = dict(zip(names.linears, block.projections(), strict=True))
        masks = {role: _mask_of(projection) for role, projection in projections.items()}
        int8 = {role: mask for role, mask in masks.items() if input_quantizer(projections[role]) is not None}
        orders = layer_orders(int8, block.head_dim)
        for role, projection in projections.items():
            module = names.linears[role]
            bf16 = weights == "bf16"
            _put_linear(tensors, module, projection, masks[role], orders.get(role), problems, bf16)
            kept += int(np.count_nonzero(masks[role]))
            total += masks[role].size
        _put_plain(tensors, names.attn_norm, block.attn_norm)
        _put_plain(tensors, names.ffn_norm, block.ffn_norm)
    _put_embeddings(tensors, model, shape, problems)
    if problems:
        raise StructureError(problem_list("The model is not ready for export", problems))
    _put_head(tensors, model, shape)
    config["quantization_config"] = quantization_of(tensors, shape, 1.0 - kept / total).model_dump()
    files = _tokenizer_files(tokenizer)
    return write_checkpoint(out, config, tensors, files, recipe, metrics, model_card(config, metrics))


def _check_modules(model: nn.Module, blocks: list[EncoderBlock], shape: ModelShape) -> None:
    """Refuses a model whose modules are not those that its class and config announce."""
    head = shape.head
    names = shape.embeddings
    wanted = [names.norm, names.projection, head.dense, head.norm, head.output, head.decoder]
    missing = [name for name in wanted if name is not None and find_module(model, name) is None]
    if missing:
        raise UnsupportedError(
            f"{type(model).__name__} has no {', '.join(missing)}, which {shape.architecture} has."
        )
    if len(blocks) != len(shape.stored_layers):
        raise UnsupportedError(
            f"The model has {len(blocks)} layers and its config says {len(shape.stored_layers)}."
        )
    decoder = None if head.decoder is None else find_module(model, head.decoder)
    if decoder is not None and not torch.equal(decoder.weight, find_embeddings(model)["word"].weight):
        raise UnsupportedError(
            f"The weight of {head.decoder} is not the word table: only models that share it can be exported; "
            f"call model.tie_weights()."
        )


def _mask_of(projection: Projection) -> NDArray[np.bool_]:
    """Returns [N, K], True where a weight is kept; without a mask, where it is not 0."""
    found = find_mask(projection.linear)
    return _array(found.mask) if found is not None else _array(unquantized_weight(projection.linear)) != 0


def _put_linear(
    tensors: Tensors,
    name: str,
    projection: Projection,
    mask: NDArray[np.bool_],
    order: NDArray[np.uint16] | None,
    problems: list[str],
    bf16: bool,
) -> None:
    """Encodes one linear layer under the name that it has in the file."""
    linear = projection.linear
    weight = _array(unquantized_weight(linear))
    pruned = None if mask.all() else mask
    bias = np.zeros(len(weight), np.float32) if linear.bias is None else _array(linear.bias)
    tensors[tensor_name(name, keys.BIAS)] = bias
    quantizer = input_quantizer(projection)
    encoded: dict[str, Any]
    if quantizer is None:
        encoded = encode_float_weight(weight, pruned, bf16)
    else:
        scale = symmetric_scale(np.abs(weight).max(axis=1))
        encoded = {**encode_weight(weight, pruned, scale, order), keys.WEIGHT_SCALE: scale}
        if isinstance(quantizer, DynamicQuantizer):
            problems += [] if quantizer.enabled else [_switched_off(quantizer.tensor)]
        else:
            _put_range(tensors, name, keys.INPUT_SCALE, keys.INPUT_ZERO_POINT, quantizer, problems)
    tensors |= {tensor_name(name, suffix): tensor for suffix, tensor in encoded.items()}


def _put_attention(
    tensors: Tensors, names: LayerNames, model: nn.Module, block: EncoderBlock, problems: list[str]
) -> None:
    found = attention_quantizer(model, block)
    if found is None:
        return
    module = names.attention
    _put_range(tensors, module, keys.QUERY_SCALE, keys.QUERY_ZERO_POINT, found.query, problems)
    _put_range(tensors, module, keys.KEY_SCALE, None, found.key, problems)
    _put_range(tensors, module, keys.VALUE_SCALE, None, found.value, problems)


def _put_range(
    tensors: Tensors,
    module: str,
    scale_key: str,
    zero_point_key: str | None,
    quantizer: ActivationQuantizer,
    problems: list[str],
) -> None:
    try:
        scale, zero_point = quantizer.qparams()
    except SecateurError as error:
        problems.append(str(error).rstrip("."))
        return
    if not quantizer.enabled:
        problems.append(_switched_off(quantizer.tensor))
    if quantizer.low == quantizer.high:
        warnings.warn(
            f"{quantizer.tensor} was always {quantizer.low.item():g} while its range was learnt; "
            f"check that the model and the batches are what you meant.",
            stacklevel=4,
        )
    tensors[tensor_name(module, scale_key)] = _array(scale).reshape(1)
    if zero_point_key is not None:
        tensors[tensor_name(module, zero_point_key)] = _array(zero_point).astype(np.uint8).reshape(1)


def _switched_off(tensor: str) -> str:
    return f"the quantizer of {tensor} is switched off"


def _put_plain(tensors: Tensors, name: str, module: nn.Module | None) -> None:
    assert module is not None
    tensors[tensor_name(name, keys.WEIGHT)] = _array(module.weight)
    tensors[tensor_name(name, keys.BIAS)] = _array(module.bias)


def _put_embeddings(tensors: Tensors, model: nn.Module, shape: ModelShape, problems: list[str]) -> None:
    names = shape.embeddings
    tables = find_embeddings(model)
    enabled = {names.tables[kind]: rows_enabled(table) for kind, table in tables.items()}
    problems += [_switched_off(name) for name, on in enabled.items() if on is False]
    if any(on is not None for on in enabled.values()):
        lacking = [name for name, on in enabled.items() if on is None]
        problems += [f"{name} has no quantizer, but another table does" for name in lacking]
    for kind, table in tables.items():
        weight = _array(table.weight)
        if rows_enabled(table) is None:
            tensors[tensor_name(names.tables[kind], keys.WEIGHT)] = weight
            continue
        scale = symmetric_scale(np.abs(weight).max(axis=1))
        q = quantize(weight, scale[:, None], 0, S8_MIN, S8_MAX).astype(np.int8)
        tensors[tensor_name(names.tables[kind], keys.WEIGHT)] = q
        tensors[tensor_name(names.tables[kind], keys.WEIGHT_SCALE)] = scale
    norm = find_module(model, names.norm)
    assert norm is not None  # `_check_modules` has looked for it
    # Two dimensions where transformers expects one: without `import secateur.hf` loading must fail, because
    # it would go on with random weights.
    tensors[tensor_name(names.norm, keys.WEIGHT)] = _array(norm.weight)[None]
    tensors[tensor_name(names.norm, keys.BIAS)] = _array(norm.bias)[None]
    if names.projection is not None:
        _put_plain(tensors, names.projection, find_module(model, names.projection))


def _put_head(tensors: Tensors, model: nn.Module, shape: ModelShape) -> None:
    """Writes what lies behind the encoder; a weight that is the word table is not written again."""
    head = shape.head
    for name in (head.dense, head.norm):
        if name is not None:
            _put_plain(tensors, name, find_module(model, name))
    if head.output is None:
        return
    if head.decoder is None:
        _put_plain(tensors, head.output, find_module(model, head.output))
        return
    decoder = find_module(model, head.decoder)
    assert decoder is not None
    tensors[tensor_name(head.output, keys.BIAS)] = _array(decoder.bias)


def _array(tensor: Tensor) -> NDArray[Any]:
    array = tensor.detach().to("cpu")
    return np.ascontiguousarray((array.float() if array.is_floating_point() else array).numpy())


def _config(model: nn.Module) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=True))
    config.pop("_name_or_path", None)
    family = FAMILIES[model.config.model_type]
    architecture = find_architecture(model)
    if architecture is None:
        raise UnsupportedError(
            f"{type(model).__name__} cannot be exported; supported: {', '.join(family.architectures)}."
        )
    head = family.architectures[architecture]
    if head.head == "embedding" and "sentence_embedding" not in config:
        raise UnsupportedError(
            f"{type(model).__name__} has no task head, so it is written as one for sentence embeddings, and "
            f'must say how: set model.config.sentence_embedding = {{"pooling": "mean", "normalize": True}}, '
            f'or the pooling "cls" or "max".'
        )
    config["architectures"] = [architecture]
    config["dtype"] = "float32"
    if head.labels:
        # transformers leaves the names out where they are the default ones.
        config["id2label"] = {str(index): label for index, label in model.config.id2label.items()}
        config["label2id"] = {label: int(index) for index, label in model.config.id2label.items()}
    return dict(sorted(config.items()))


def _tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    """Returns the tokenizer's files; `write_checkpoint` takes padding and truncation out of them."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        paths = [Path(folder) / name for name in _TOKENIZER_FILES]
        files = {path.name: path.read_bytes() for path in paths if path.is_file()}
    if _TOKENIZER_FILE not in files:
        raise UnsupportedError(
            f"{type(tokenizer).__name__} writes no {_TOKENIZER_FILE}: load the tokenizer with "
            f"AutoTokenizer.from_pretrained(..., use_fast=True)."
        )
    name = "tokenizer_config.json"
    if name in files:
        content = json.loads(files[name])
        kept = {key: value for key, value in content.items() if key not in _TRACES}
        files[name] = (json.dumps(kept, indent=2, ensure_ascii=False) + "\n").encode()
    return files
