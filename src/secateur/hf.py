"""Opens Secateur checkpoints with transformers: `import secateur.hf`, then `from_pretrained` as ever.

The result is an ordinary float model with masks attached, and fake quantizers where the checkpoint is int8.
It computes what the engine computes, can be trained on, saved by a Trainer, and exported again. (A model that
is float32 throughout runs PyTorch's own functions: the engine's GELU differs from them by up to 1.4e-4.
Weights that are bfloat16 come as the same numbers in float32; the engine also rounds what they multiply.)
Without this import transformers refuses the checkpoint, because one norm in it has a shape that no model has.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils import cached_file
from transformers.utils.quantization_config import QuantizationConfigMixin

from secateur.affine import S8_MAX, symmetric_scale
from secateur.checkpoint import (
    BF16,
    QUANT_METHOD,
    Checkpoint,
    Int8Parts,
    decode_float_weight,
    decode_weight,
    find_int8_parts,
    read_checkpoint,
    tensor_name,
)
from secateur.checkpoint import names as keys
from secateur.checkpoint.folder import TENSOR_FILE
from secateur.errors import CheckpointError, UnsupportedError
from secateur.modeling.structure import Projection, find_blocks, find_module
from secateur.quantization.observer import ActivationQuantizer
from secateur.quantization.qat import (
    QuantizedParts,
    attach_quantizers_,
    attention_quantizer,
    find_embeddings,
    input_quantizer,
)
from secateur.sparsity.mask import attach_mask_
from secateur.tasks import task_of

__all__ = ["SecateurConfig", "SecateurQuantizer", "load_compressed"]


def load_compressed(folder: str | os.PathLike[str]) -> nn.Module:
    """Loads a checkpoint as a float PyTorch model that computes what the engine computes.

    Args:
        folder: A checkpoint folder.

    Returns:
        The model in eval mode, with masks attached; quantizers, their ranges frozen, stand where the
        checkpoint is int8.

    Raises:
        CheckpointError: If the folder is not a sound checkpoint.
        UnsupportedError: If it is of an unsupported family, or no training can have made its weights.
    """
    checkpoint = read_checkpoint(folder)  # its errors, too: those of transformers talk about connections
    model, info = _auto_class(checkpoint).from_pretrained(
        Path(folder), local_files_only=True, output_loading_info=True
    )
    wrong = {what: sorted(map(str, names)) for what, names in info.items() if names}
    if wrong:
        raise CheckpointError(f"{folder} did not load completely: {wrong}.")
    loaded: nn.Module = model
    return loaded


@register_quantization_config(QUANT_METHOD)
class SecateurConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """`quantization_config` as transformers carries it; `read_checkpoint` is what checks it."""

    def __init__(self, **fields: Any) -> None:
        self.quant_method = QUANT_METHOD
        for name, value in fields.items():
            setattr(self, name, value)


@register_quantizer(QUANT_METHOD)
class SecateurQuantizer(HfQuantizer):  # type: ignore[misc]
    """Lets transformers load every tensor as it is stored, then rebuilds the float model from them."""

    def __init__(self, quantization_config: SecateurConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        if not self.pre_quantized:
            raise UnsupportedError(
                "Secateur compresses while a model trains, not while it loads: use secateur.compress."
            )
        self._checkpoint: Checkpoint | None = None
        self._tied: dict[str, str] = {}

    @property
    def is_trainable(self) -> bool:
        """The loaded model is an ordinary float model."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """Its quantizers let gradients pass."""
        return True

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """The loaded model is saved as the float model in training that it is."""
        return True

    def update_dtype(self, dtype: Any) -> torch.dtype:
        """Ignores what was asked for: scales need float32."""
        return torch.float32

    update_torch_dtype = update_dtype  # its name before transformers 5

    def _process_model_before_weight_loading(
        self, model: nn.Module, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> nn.Module:
        """Gives the still empty model a place for every stored tensor, in its stored type and shape."""
        checkpoint = self._checkpoint = read_checkpoint(_folder(model, checkpoint_files))
        _leave_out_pooler_(model, checkpoint)
        self._tied = _untie_(model, checkpoint)
        _check_complete(model, checkpoint)
        for name, array in checkpoint.tensors.items():
            module, suffix = _home(model, checkpoint, name)
            if module is None or _is_plain(module, suffix, array):
                continue
            module._parameters.pop(keys.WEIGHT if suffix == keys.WEIGHT_VALUES else suffix, None)
            bf16 = array.dtype == BF16
            stored = torch.bfloat16 if bf16 else torch.from_numpy(np.empty(0, array.dtype)).dtype
            module.register_buffer(suffix, torch.empty(array.shape, dtype=stored, device="meta"))
            module._is_hf_initialized = True  # else transformers would fill a weight that is not there
        return model

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        """Puts float weights in place, attaches masks and quantizers, and sets their ranges."""
        assert self._checkpoint is not None
        checkpoint, self._checkpoint = self._checkpoint, None
        for name in checkpoint.tensors:
            module, suffix = _home(model, checkpoint, name)
            if module is not None:
                module._buffers.pop(suffix, None)
        parts = find_int8_parts(checkpoint.tensors, checkpoint.shape, checkpoint.quantization)
        _restore_weights_(model, checkpoint, parts)
        _tie_(model, checkpoint, self._tied)
        if parts.linears or parts.attention or parts.embeddings:
            attach_quantizers_(model, parts=_in_model(parts, model, checkpoint))
        _restore_ranges_(model, checkpoint, parts)
        _forget_quantizer_(model)
        return model


def _auto_class(checkpoint: Checkpoint) -> Any:
    return getattr(transformers, task_of({"architectures": [checkpoint.shape.architecture]}).auto_class)


def _leave_out_pooler_(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Makes a model without a task head one without a pooler where the file has none."""
    base = model.base_model
    stored = {
        name.rpartition(".")[0].removeprefix(f"{checkpoint.shape.prefix}.") for name in checkpoint.tensors
    }
    if getattr(base, "pooler", None) is not None and not stored & {"pooler", "pooler.dense"}:
        base.pooler = None


def _decoder(model: nn.Module, checkpoint: Checkpoint) -> nn.Module | None:
    """Returns the linear layer whose weight is the word table; None where a model has none."""
    name = checkpoint.shape.head.decoder
    return None if name is None else find_module(model, name)


def _untie_(model: nn.Module, checkpoint: Checkpoint) -> dict[str, str]:
    """Takes away what copies another tensor: transformers would tie it to the table while that is int8."""
    decoder = _decoder(model, checkpoint)
    if decoder is None:
        return {}
    decoder._parameters.pop(keys.WEIGHT)
    tied: dict[str, str] = dict(getattr(model, "all_tied_weights_keys", {}))
    if tied:  # not before version 5, which ties the bias by itself
        model.all_tied_weights_keys = {}
    if checkpoint.shape.head.output != checkpoint.shape.head.decoder:
        decoder._is_hf_initialized = True  # else transformers would fill a weight that is not there
        if tied:
            decoder._parameters.pop(keys.BIAS)
    return tied


def _tie_(model: nn.Module, checkpoint: Checkpoint, tied: dict[str, str]) -> None:
    """Undoes `_untie_`, with the float table."""
    decoder = _decoder(model, checkpoint)
    if decoder is None:
        return
    owner = find_module(model, str(checkpoint.shape.head.output))
    decoder.weight = find_embeddings(model)["word"].weight
    if owner is not None and owner is not decoder:
        decoder.bias = owner.bias
    if tied:
        model.all_tied_weights_keys = tied


def _folder(model: nn.Module, checkpoint_files: list[str] | None) -> Path:
    """Returns the folder that transformers is loading from; before version 5 it does not say which."""
    if checkpoint_files is None:
        checkpoint_files = [str(cached_file(model.config.name_or_path, TENSOR_FILE))]
    if len(checkpoint_files) != 1:
        raise CheckpointError(f"A Secateur checkpoint has one tensor file, not these: {checkpoint_files}.")
    return Path(checkpoint_files[0]).parent


def _home(model: nn.Module, checkpoint: Checkpoint, name: str) -> tuple[nn.Module | None, str]:
    """Returns the module that a stored tensor belongs to (None: this model lacks it) and its suffix."""
    path, _, suffix = name.rpartition(".")
    for candidate in (path, path.removeprefix(f"{checkpoint.shape.prefix}.")):  # with and without task head
        try:
            return model.get_submodule(candidate), suffix
        except AttributeError:
            continue
    return None, suffix


def _is_plain(module: nn.Module, suffix: str, array: NDArray[Any]) -> bool:
    parameter = module._parameters.get(suffix)
    return parameter is not None and parameter.shape == array.shape and array.dtype == np.float32


def _check_complete(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Refuses a model with parameters that the checkpoint does not hold: they would stay random."""
    filled = {(id(_decoder(model, checkpoint)), keys.BIAS)}  # that of the head
    for name in checkpoint.tensors:
        module, suffix = _home(model, checkpoint, name)
        filled.add((id(module), keys.WEIGHT if suffix == keys.WEIGHT_VALUES else suffix))
    empty = [
        f"{path}.{suffix}"
        for path, module in model.named_modules()
        for suffix in module._parameters
        if module._parameters[suffix] is not None and (id(module), suffix) not in filled
    ]
    if empty:
        raise UnsupportedError(
            f"{checkpoint.folder} holds {checkpoint.shape.architecture}, which has no {empty[0]}: "
            f"load it with {_auto_class(checkpoint).__name__}, not as {type(model).__name__}."
        )


def _in_model(parts: Int8Parts, model: nn.Module, checkpoint: Checkpoint) -> QuantizedParts:
    """Translates the checkpoint's names into those of a model, which may lack the task head."""
    linears, dynamic, attention = [], [], []
    layers = zip(checkpoint.shape.stored_layers, find_blocks(model), strict=True)
    for index, (names, block) in enumerate(layers):
        stored = zip(names.linears.values(), block.projections(), strict=True)
        named = [(name, projection.name) for name, projection in stored]
        linears += [own for name, own in named if name in parts.linears]
        dynamic += [own for name, own in named if name in parts.dynamic]
        attention += [index] if names.attention in parts.attention else []
    return QuantizedParts(linears, attention, parts.embeddings, dynamic)


def _restore_weights_(model: nn.Module, checkpoint: Checkpoint, parts: Int8Parts) -> None:
    device = next(model.parameters()).device
    tensors = checkpoint.tensors
    embeddings = checkpoint.shape.embeddings
    for kind, table in find_embeddings(model).items() if parts.embeddings else ():
        name = embeddings.tables[kind]
        scale = tensors[tensor_name(name, keys.WEIGHT_SCALE)]
        weight = _float_weight(name, tensors[tensor_name(name, keys.WEIGHT)], scale)
        table.weight = nn.Parameter(torch.from_numpy(weight).to(device))
    norm, _ = _home(model, checkpoint, tensor_name(embeddings.norm, keys.WEIGHT))
    assert norm is not None
    for suffix in (keys.WEIGHT, keys.BIAS):
        values = np.array(tensors[tensor_name(embeddings.norm, suffix)][0])
        setattr(norm, suffix, nn.Parameter(torch.from_numpy(values).to(device)))
    for names, block in zip(checkpoint.shape.stored_layers, find_blocks(model), strict=True):
        for name, projection in zip(names.linears.values(), block.projections(), strict=True):
            _restore_linear_(projection, name, checkpoint, parts, device)


def _restore_linear_(
    projection: Projection, name: str, checkpoint: Checkpoint, parts: Int8Parts, device: torch.device
) -> None:
    tensors = checkpoint.tensors
    stored = {
        suffix: tensors[key]
        for suffix in keys.WEIGHT_SUFFIXES
        if (key := tensor_name(name, suffix)) in tensors
    }
    linear = projection.linear
    if name in parts.linears:
        q, mask = decode_weight(stored, projection.in_features)
        weight = _float_weight(name, q, tensors[tensor_name(name, keys.WEIGHT_SCALE)])
    elif keys.WEIGHT in stored and name not in parts.bf16:
        return  # transformers has loaded it
    else:
        weight, mask = decode_float_weight(stored, projection.in_features)
    linear.weight = nn.Parameter(torch.from_numpy(weight).to(device))
    if mask is not None:
        attach_mask_(linear, torch.from_numpy(mask).to(device))


def _float_weight(name: str, q: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns a float weight whose fake quantization gives exactly these integers and scales.

    Scales are taken from the weight itself, as the largest value of a row over 127. Multiplying back can miss
    by the last bit, so that value is chosen among the neighbours of the product.

    Args:
        name: The module, for messages.
        q: [N, K] int8.
        scale: [N] float32.

    Returns:
        [N, K] float32.

    Raises:
        UnsupportedError: If a row has no largest value, so that no float weight has this scale.
    """
    weight = q.astype(np.float32) * scale[:, None]
    product = np.float32(S8_MAX) * scale
    largest = product.copy()
    for direction in (-np.inf, np.inf):
        near = product
        for _ in range(2):
            near = np.nextafter(near, np.float32(direction))
            largest = np.where(symmetric_scale(largest) == scale, largest, near)
    np.copyto(weight, largest[:, None], where=q == S8_MAX)
    np.copyto(weight, -largest[:, None], where=q == -S8_MAX)
    if not np.array_equal(symmetric_scale(np.abs(weight).max(axis=1)), scale):
        raise UnsupportedError(
            f"{name} has rows that do not use the whole int8 range, as no Secateur training writes them: "
            f"the engine can run this checkpoint, but PyTorch cannot train it on."
        )
    return weight


def _restore_ranges_(model: nn.Module, checkpoint: Checkpoint, parts: Int8Parts) -> None:
    tensors = checkpoint.tensors

    def value(module: str, suffix: str) -> Any:
        return tensors[tensor_name(module, suffix)].item()

    for names, block in zip(checkpoint.shape.stored_layers, find_blocks(model), strict=True):
        for name, projection in zip(names.linears.values(), block.projections(), strict=True):
            if name not in parts.linears or name in parts.dynamic:
                continue
            quantizer = input_quantizer(projection)
            assert isinstance(quantizer, ActivationQuantizer)
            quantizer.set_qparams_(value(name, keys.INPUT_SCALE), value(name, keys.INPUT_ZERO_POINT))
        if names.attention not in parts.attention:
            continue
        attention = attention_quantizer(model, block)
        assert attention is not None
        zero_point = value(names.attention, keys.QUERY_ZERO_POINT)
        attention.query.set_qparams_(value(names.attention, keys.QUERY_SCALE), zero_point)
        attention.key.set_qparams_(value(names.attention, keys.KEY_SCALE), 0)
        attention.value.set_qparams_(value(names.attention, keys.VALUE_SCALE), 0)


def _forget_quantizer_(model: nn.Module) -> None:
    """Makes the model an ordinary one: saved and resumed as float weights, not as what it was loaded from."""
    for owner, name in (
        (model, "hf_quantizer"),
        (model, "quantization_method"),
        (model.config, "quantization_config"),
        (model.config, "_is_quantized"),
        (model.config, "_pre_quantization_dtype"),
    ):
        if name in vars(owner):
            delattr(owner, name)
    model.is_quantized = False
