"""ONNX Runtime as its users run a BERT: exported, fused for transformers, quantized dynamically to int8."""

from __future__ import annotations

import logging
import math
import shutil
import warnings
from pathlib import Path
from typing import Any

__all__ = ["export_onnx_peers", "onnx_peers_missing"]

_MODULES = ("onnx", "onnxruntime", "torch", "transformers")


def onnx_peers_missing() -> list[str]:
    """Looks for what the ONNX Runtime rows need, without importing it.

    Returns:
        Names of the packages that are not installed.
    """
    from importlib.util import find_spec

    return [module for module in _MODULES if find_spec(module) is None]


def export_onnx_peers(folder: Path, out: Path) -> None:
    """Writes `model.onnx` (float32, fused) and `model-int8.onnx` (dynamic int8 of it) for a dense model.

    Args:
        folder: A Hugging Face folder of a BERT for sequence classification.
        out: Folder to write into; it gets `config.json` too.

    Raises:
        RuntimeError: The exported graph does not compute what the model does.
    """
    import onnx
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions
    from transformers import AutoModelForSequenceClassification

    out.mkdir(parents=True, exist_ok=True)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    plain = _plain_graph(model)
    ids = torch.randint(0, model.config.vocab_size, (1, 16), generator=torch.Generator().manual_seed(0))
    inputs = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    with torch.inference_mode():
        difference = (model(*inputs).logits - plain(*inputs)).abs().max().item()
    if difference > 1e-3:
        raise RuntimeError(f"the plain graph of {folder} differs from the model by {difference:.2g}")

    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes: dict[str, dict[int, str]] = {name: {0: "batch", 1: "seq"} for name in names}
    raw = out / "model-raw.onnx"
    logging.disable(logging.WARNING)  # the quantizer advises on the root logger
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                plain,
                inputs,
                str(raw),
                input_names=names,
                output_names=["logits"],
                dynamic_axes={**axes, "logits": {0: "batch"}},
                opset_version=17,
                dynamo=False,
            )
            fused = optimizer.optimize_model(
                str(raw),
                model_type="bert",
                num_heads=model.config.num_attention_heads,
                hidden_size=model.config.hidden_size,
                opt_level=1,
                optimization_options=FusionOptions("bert"),
            )
            fused.save_model_to_file(str(out / "model.onnx"))
            quantize_dynamic(
                str(out / "model.onnx"),
                str(out / "model-int8.onnx"),
                weight_type=QuantType.QInt8,
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "WeightSymmetric": True},
            )
    finally:
        logging.disable(logging.NOTSET)
    raw.unlink()
    shutil.copyfile(folder / "config.json", out / "config.json")


def _plain_graph(model: Any) -> Any:
    """Wraps the model's own modules in the BERT graph that ONNX Runtime's fusers know.

    transformers 5 exports a sub-graph for masks and shapes that they do not; unfused, the peer would be
    slower than its users have it.
    """
    import torch

    class PlainBert(torch.nn.Module):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            bert, config = self.model.bert, self.model.config
            heads = config.num_attention_heads
            head_dim = config.hidden_size // heads
            tables = bert.embeddings
            bias = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * -10000.0  # (B, 1, 1, S)
            positions = tables.position_embeddings(tables.position_ids[:, : input_ids.size(1)])
            x = tables.word_embeddings(input_ids) + tables.token_type_embeddings(token_type_ids) + positions
            x = tables.LayerNorm(x)  # (B, S, H)
            for layer in bert.encoder.layer:
                attention = layer.attention.self

                def split(t: Any) -> Any:
                    return t.view((*t.size()[:-1], heads, head_dim)).permute(0, 2, 1, 3)  # (B, heads, S, D)

                query, key = split(attention.query(x)), split(attention.key(x))
                value = split(attention.value(x))
                scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(head_dim) + bias
                mixed = torch.matmul(torch.softmax(scores, dim=-1), value).permute(0, 2, 1, 3).contiguous()
                mixed = mixed.view((*mixed.size()[:-2], heads * head_dim))
                x = layer.attention.output.LayerNorm(layer.attention.output.dense(mixed) + x)
                wide = layer.intermediate.intermediate_act_fn(layer.intermediate.dense(x))
                x = layer.output.LayerNorm(layer.output.dense(wide) + x)
            return self.model.classifier(torch.tanh(bert.pooler.dense(x[:, 0])))

    return PlainBert().eval()
