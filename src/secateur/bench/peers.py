"""A BERT as graphs for other engines: plain for all; fused and quantized dynamically for ONNX Runtime."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "PLAIN",
    "export_onnx_peers",
    "export_plain",
    "export_plain_model",
    "fuse_for_onnx_runtime",
    "onnx_peers_missing",
]

PLAIN = "model-plain.onnx"

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
    export_plain(folder, out)
    fuse_for_onnx_runtime(out)
    (out / PLAIN).unlink()


def export_plain(folder: Path, out: Path) -> None:
    """Writes `model-plain.onnx`: float32, in the graph that all engines know.

    Args:
        folder: A Hugging Face folder of a BERT for sequence classification.
        out: Folder to write into; it gets `config.json` too.

    Raises:
        RuntimeError: The exported graph does not compute what the model does.
    """
    from transformers import AutoModelForSequenceClassification

    export_plain_model(AutoModelForSequenceClassification.from_pretrained(folder).eval(), out)
    shutil.copyfile(folder / "config.json", out / "config.json")


def export_plain_model(model: Any, out: Path) -> None:
    """Writes `model-plain.onnx` of a BERT for sequence classification in memory; see `export_plain`."""
    import torch

    out.mkdir(parents=True, exist_ok=True)
    plain = _plain_graph(model)
    ids = torch.randint(0, model.config.vocab_size, (1, 16), generator=torch.Generator().manual_seed(0))
    inputs = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    with torch.inference_mode():
        difference = (model(*inputs).logits - plain(*inputs)).abs().max().item()
    if difference > 1e-3:
        raise RuntimeError(f"the plain graph of {out} differs from the model by {difference:.2g}")
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes: dict[str, dict[int, str]] = {name: {0: "batch", 1: "seq"} for name in names}
    with _quiet():
        torch.onnx.export(
            plain,
            inputs,
            str(out / PLAIN),
            input_names=names,
            output_names=["logits"],
            dynamic_axes={**axes, "logits": {0: "batch"}},
            opset_version=14,  # the newest that DeepSparse knows by heart: later ones have a node for a norm
            dynamo=False,
        )


def fuse_for_onnx_runtime(out: Path) -> None:
    """Makes `model.onnx` and `model-int8.onnx` of `model-plain.onnx`.

    Args:
        out: The folder that `export_plain` wrote.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    with _quiet():
        fused = optimizer.optimize_model(
            str(out / PLAIN),
            model_type="bert",
            num_heads=config["num_attention_heads"],
            hidden_size=config["hidden_size"],
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of what they do, and the quantizer advises on the root logger."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _plain_graph(model: Any) -> Any:
    """Wraps the model's own modules in the BERT graph that the engines' fusers know.

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
