"""Quantization-aware training: attaches fake quantization to a live model and takes its ranges out again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from secateur.checkpoint.names import embedding_names
from secateur.errors import SecateurError, StructureError, problem_list
from secateur.modeling.structure import EncoderBlock, Projection, find_blocks, find_module
from secateur.quantization.attention import AttentionQuantizer, choose_attention_
from secateur.quantization.dynamic import DynamicQuantizer
from secateur.quantization.fake_quantize import fake_quantize_rows
from secateur.quantization.heads import decoder_is_quantized, quantize_decoder_, simulate_head_
from secateur.quantization.integer_linear import Memory, integer_linear
from secateur.quantization.observer import ActivationQuantizer
from secateur.quantization.scheme import QuantScheme
from secateur.quantization.simulation import SimulatedNorm, simulate_activations_
from secateur.sparsity.mask import weight_and_mask

__all__ = [
    "QuantizedParts",
    "attach_quantizers_",
    "attention_quantizer",
    "enable_quantizers_",
    "find_embeddings",
    "find_quantizers",
    "freeze_observers_",
    "idle_quantizers",
    "input_quantizer",
    "is_quantized",
    "rows_enabled",
]

_ROW_QUANTIZER = "row_quantizer"


@dataclass(frozen=True)
class QuantizedParts:
    """What of a model shall compute in int8; the rest stays float32.

    Attributes:
        linears: Names of encoder linears (`Projection.name`), whose weight and input are quantized.
        attention: Numbers of the layers that attend in int8, counted from 0.
        embeddings: Whether the looked-up rows are quantized.
        dynamic: Those of `linears` whose input takes its scale token by token, the others having a learnt
            range; query, key and value of a layer, which read one tensor, must agree. None leaves it to the
            scheme.
    """

    linears: Collection[str]
    attention: Collection[int]
    embeddings: bool
    dynamic: Collection[str] | None = None

    @classmethod
    def everything(cls, blocks: Sequence[EncoderBlock]) -> QuantizedParts:
        """Returns what a model is quantized in where nothing else is asked for."""
        linears = [projection.name for block in blocks for projection in block.projections()]
        return cls(frozenset(linears), range(len(blocks)), True)


def attach_quantizers_(
    model: nn.Module,
    scheme: QuantScheme | None = None,
    enabled: bool = True,
    parts: QuantizedParts | None = None,
) -> None:
    """Makes a model compute as the engine will, with gradients passing straight through the rounding.

    The state dict grows by a few small buffers, so attach before a saved run is resumed. Attach masks first:
    the masked weight is what is quantized, and zeros stay zeros. The model's own config gets another
    attention implementation, so it must not share its config with another model.

    Args:
        model: A live model of a supported family, with or without masks.
        scheme: How inputs are quantized and ranges learnt; the default where None.
        enabled: False attaches everything but lets the float model run until `enable_quantizers_`.
        parts: What to quantize; all of it where None.

    Raises:
        StructureError: If the model has quantizers already, its modules are not where they should be, or
            `parts` names none or others than it has, or contradicts itself.
        UnsupportedError: If the family is not supported.

    Source:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference" (arXiv 1712.05877), section 3: S is our `scale`, Z our `zero_point`; ranges by moving
        averages as in 3.1. We differ in three places: weights have a scale per row and never -128, the
        attention products are quantized too, and no delay freezes the quantization of activations (a recipe
        switches everything on at once).
    """
    scheme = scheme or QuantScheme()
    if is_quantized(model):
        raise StructureError("The model has quantizers already: attach them only once.")
    blocks = find_blocks(model)
    tables = find_embeddings(model)
    parts = parts or QuantizedParts.everything(blocks)
    if parts.dynamic is None:
        parts = replace(parts, dynamic=parts.linears if scheme.activations == "s8_dynamic" else ())
    _check_parts(parts, blocks)
    for index, block in enumerate(blocks):
        _attach_block_(model, block, scheme, parts, index in parts.attention)
    for kind, table in tables.items() if parts.embeddings else ():
        row_quantizer = _RowQuantizer()
        table.add_module(_ROW_QUANTIZER, row_quantizer)
        table.register_forward_hook(_QuantizedOutput(row_quantizer))
        if kind == "word":
            quantize_decoder_(model, row_quantizer)
    device = next(model.parameters()).device
    for quantizer in find_quantizers(model).values():
        quantizer.to(device).train(model.training)
    _simulate_floats_(model, blocks)
    enable_quantizers_(model, enabled)
    if parts.attention:
        choose_attention_(model)


def enable_quantizers_(model: nn.Module, enabled: bool = True) -> None:
    """Switches fake quantization and observation on or off; ranges stay as they are.

    Args:
        model: A model with quantizers.
        enabled: False lets the float model run.
    """
    for module in model.modules():
        if isinstance(module, _QUANTIZERS):
            module.enabled = enabled


def freeze_observers_(model: nn.Module) -> None:
    """Stops all ranges from moving; weights go on training.

    Args:
        model: A model with quantizers.

    Raises:
        SecateurError: If a range was never observed or is not finite; names every one.
    """
    problems = []
    for quantizer in find_quantizers(model).values():
        try:
            quantizer.freeze_()
        except SecateurError as error:
            problems.append(str(error).rstrip("."))
    if problems:
        raise SecateurError(problem_list("The ranges cannot be frozen", problems))


def find_quantizers(model: nn.Module) -> dict[str, ActivationQuantizer]:
    """Returns every quantizer that has a range, by its module name, in the order of the layers."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ActivationQuantizer)}


def is_quantized(model: nn.Module) -> bool:
    """Says whether `attach_quantizers_` has run on this model."""
    return any(isinstance(module, _QUANTIZERS) for module in model.modules())


def input_quantizer(projection: Projection) -> ActivationQuantizer | DynamicQuantizer | None:
    """Returns what quantizes the input of a projection, or None; query, key and value share one."""
    forward = projection.linear.__dict__.get("forward")
    return forward.source.quantizer if isinstance(forward, _QuantizedForward) else None


def attention_quantizer(model: nn.Module, block: EncoderBlock) -> AttentionQuantizer | None:
    """Returns what quantizes query, key and value of a layer, or None where nothing does."""
    return AttentionQuantizer.of(_attention_module(model, block))


def rows_enabled(table: nn.Embedding) -> bool | None:
    """Says whether the rows of a table are quantized just now; None where it has no quantizer."""
    found = getattr(table, _ROW_QUANTIZER, None)
    return found.enabled if isinstance(found, _RowQuantizer) else None


def idle_quantizers(model: nn.Module) -> list[str]:
    """Names the quantizers that not all layers use which they were attached to.

    Code that replaces the forward of a linear layer takes its quantizer off without a trace elsewhere; such a
    model computes otherwise than it was trained.

    Args:
        model: A live model of a supported family.
    """
    reads: Counter[int] = Counter()
    wanted: dict[int, int] = {}
    for block in find_blocks(model):
        for projection in block.projections():
            forward = projection.linear.__dict__.get("forward")
            if isinstance(forward, _QuantizedForward):
                reads[id(forward.source.quantizer)] += 1
                wanted[id(forward.source.quantizer)] = forward.source.readers
        attention = attention_quantizer(model, block)
        for quantizer in () if attention is None else (attention.query, attention.key, attention.value):
            reads[id(quantizer)] += 1
    kinds = (ActivationQuantizer, DynamicQuantizer)
    found = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    idle = [name for name, one in found.items() if reads[id(one)] < wanted.get(id(one), 1)]
    word = find_embeddings(model)["word"]
    if rows_enabled(word) is not None and decoder_is_quantized(model) is False:
        idle.append("the row quantizer of the word table")
    return idle


def find_embeddings(model: nn.Module) -> dict[str, nn.Embedding]:
    """Finds the tables whose rows are summed into the first hidden states.

    Args:
        model: A live model of a supported family.

    Returns:
        Kind (`word`, `position`, and `token_type` where the family has it) to table.

    Raises:
        StructureError: If a table is missing.
    """
    tables = {}
    for kind, name in embedding_names(model.config.model_type).tables.items():
        table = find_module(model, name)
        if not isinstance(table, nn.Embedding):
            raise StructureError(f"{name} is {type(table).__name__}, expected nn.Embedding.")
        tables[kind] = table
    return tables


def _find_embedding_norm(model: nn.Module) -> nn.LayerNorm:
    name = embedding_names(model.config.model_type).norm
    norm = find_module(model, name)
    if not isinstance(norm, nn.LayerNorm):
        raise StructureError(f"{name} is {type(norm).__name__}, expected nn.LayerNorm.")
    return norm


def _check_parts(parts: QuantizedParts, blocks: list[EncoderBlock]) -> None:
    known = QuantizedParts.everything(blocks)
    wrong = sorted(set(parts.linears) - set(known.linears))
    wrong += [f"attention of layer {index}" for index in sorted(set(parts.attention) - set(known.attention))]
    if wrong:
        raise StructureError(problem_list("The model has not all that shall be quantized", wrong))
    stray = sorted(set(parts.dynamic or ()) - set(parts.linears))
    if stray:
        raise StructureError(problem_list("Dynamic inputs belong to quantized linear layers, but not", stray))
    for block in blocks:
        heads = [one.name for one in (block.q, block.k, block.v) if one.name in parts.linears]
        if len({name in (parts.dynamic or ()) for name in heads}) > 1:
            raise StructureError(
                f"Query, key and value of {block.prefix} read one tensor: quantize it dynamically for all of "
                f"them or for none."
            )
    if not (parts.linears or parts.attention or parts.embeddings):
        raise StructureError("There is nothing to quantize: name linear layers, attention or the embeddings.")


def _attach_block_(
    model: nn.Module, block: EncoderBlock, scheme: QuantScheme, parts: QuantizedParts, attends: bool
) -> None:
    attention = _attention_module(model, block)
    attention_name = f"{block.prefix}.attention"
    if attends:
        AttentionQuantizer(attention_name, scheme).attach_(attention)
    else:
        AttentionQuantizer.leave_float_(attention)
    heads = [projection for projection in (block.q, block.k, block.v) if projection.name in parts.linears]
    if heads:
        _attach_input_(attention, heads, f"the input of {attention_name}", scheme, parts)
    for projection in (block.attn_out, block.ffn_in, block.ffn_out):
        if projection.name in parts.linears:
            tensor = f"the input of {projection.name}"
            _attach_input_(projection.linear, [projection], tensor, scheme, parts)


def _attach_input_(
    owner: nn.Module, readers: list[Projection], tensor: str, scheme: QuantScheme, parts: QuantizedParts
) -> None:
    quantizer: ActivationQuantizer | DynamicQuantizer
    if readers[0].name in (parts.dynamic or ()):
        quantizer = DynamicQuantizer(tensor)
    else:
        quantizer = ActivationQuantizer(tensor, False, scheme.averaging, scheme.observer, scheme.percentile)
    owner.add_module("input_quantizer", quantizer)
    source = _SharedInput(quantizer, len(readers))
    for projection in readers:
        # An instance attribute, as accelerate does it: the class stays nn.Linear (or its masked subclass),
        # the state dict stays as it was, and `linear.weight` is read through the mask.
        projection.linear.forward = _QuantizedForward(projection.linear, source)


def _simulate_floats_(model: nn.Module, blocks: list[EncoderBlock]) -> None:
    """Lets norms and GELUs, those of the head too, follow the engine in eval mode."""
    gate = next(module for module in model.modules() if isinstance(module, _QUANTIZERS))
    norms = [norm for block in blocks for norm in (block.attn_norm, block.ffn_norm)]
    for norm in (*norms, _find_embedding_norm(model)):
        norm.forward = SimulatedNorm(norm, gate)
    simulate_activations_(model, gate)
    simulate_head_(model, gate)


def _attention_module(model: nn.Module, block: EncoderBlock) -> nn.Module:
    """Returns the module that transformers hands to an attention function: the one that owns the query."""
    module: nn.Module = model.get_submodule(block.q.name.rpartition(".")[0])
    return module


class _SharedInput:
    """Quantizes a tensor once for all layers that read it, so that its range, if any, moves once a batch."""

    def __init__(self, quantizer: ActivationQuantizer | DynamicQuantizer, readers: int) -> None:
        self.quantizer = quantizer
        self.readers = readers
        self._reads_left = 0
        self._last: tuple[Tensor, tuple[Tensor, Tensor]] | None = None

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns centred integers and scale, or scales: see the quantizer's `forward`."""
        if self._last is None or self._last[0] is not x:
            self._last = (x, self.quantizer(x))
            self._reads_left = self.readers
        result = self._last[1]
        self._reads_left -= 1
        if self._reads_left <= 0:
            self._last = None
        return result

    def __getstate__(self) -> dict[str, Any]:
        # Tensors in the middle of a graph can be neither copied nor pickled.
        return {**self.__dict__, "_last": None, "_reads_left": 0}


class _QuantizedForward:
    """Takes the place of `nn.Linear.forward`. An object, not a closure: it survives copy.deepcopy."""

    def __init__(self, linear: nn.Linear, source: _SharedInput) -> None:
        self.linear = linear
        self.source = source
        self.memory = Memory()

    def __call__(self, x: Tensor) -> Tensor:
        if not self.source.quantizer.enabled:
            return functional.linear(x, self.linear.weight, self.linear.bias)
        q, scale = self.source.quantize(x)
        exact = not self.linear.training
        static = isinstance(self.source.quantizer, ActivationQuantizer)
        zero_point = self.source.quantizer.zero_point if exact and static else None
        weight, mask = weight_and_mask(self.linear)
        return integer_linear(q, scale, weight, self.linear.bias, zero_point, mask, self.memory, exact)


class _RowQuantizer(nn.Module):  # type: ignore[misc]
    """Fake quantization of looked-up rows. The table itself, which may be tied to a head, stays float."""

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True

    def forward(self, rows: Tensor) -> Tensor:
        return fake_quantize_rows(rows) if self.enabled else rows


class _QuantizedOutput:
    def __init__(self, quantizer: _RowQuantizer) -> None:
        self.quantizer = quantizer

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        result: Tensor = self.quantizer(output)
        return result


_QUANTIZERS = (ActivationQuantizer, DynamicQuantizer, _RowQuantizer)
