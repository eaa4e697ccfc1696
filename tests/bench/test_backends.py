"""Peers compute what the model computes, so that their times can be compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import tiny_config

from secateur.bench.backends import BACKENDS, case_input_ids
from secateur.bench.peers import export_onnx_peers, onnx_peers_missing
from secateur.bench.worker import Case

IDS = [[2, 5, 6, 3], [2, 7, 3], [2, 8, 9, 10, 11, 3]]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = tiny_config(hidden_act="relu")
    del config["quantization_config"], config["architectures"]
    folder = tmp_path_factory.mktemp("dense")
    BertForSequenceClassification(BertConfig(**config)).save_pretrained(folder)
    return folder


def test_pytorch_answers_do_not_depend_on_padding(dense: Path) -> None:
    backend = BACKENDS["pytorch"](str(dense))
    together = backend.logits(IDS, threads=1)
    alone = np.concatenate([backend.logits([ids], threads=1) for ids in IDS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert backend.prepare(Case(6, 2, 1))().shape == (2, 3)  # type: ignore[attr-defined]


def test_pytorch_on_sparse_matrices_computes_the_same(dense: Path, tmp_path: Path) -> None:
    expected = BACKENDS["pytorch"](str(dense)).logits(IDS, threads=1)
    sparse = BACKENDS["pytorch-sparse"](str(dense))
    np.testing.assert_allclose(sparse.logits(IDS, threads=1), expected, atol=1e-4)
    layouts = {str(one.layout) for one in sparse._model.buffers()}  # type: ignore[attr-defined]
    assert "torch.sparse_csr" in layouts


def test_pytorch_quantized_dynamically_is_near(dense: Path) -> None:
    expected = BACKENDS["pytorch"](str(dense)).logits(IDS, threads=1)
    int8 = BACKENDS["pytorch-int8"](str(dense)).logits(IDS, threads=1)
    assert 0 < np.abs(int8 - expected).max() < 0.2


def test_onnx_runtime_computes_what_pytorch_does(dense: Path, tmp_path: Path) -> None:
    if onnx_peers_missing():
        pytest.skip(f"not installed: {', '.join(onnx_peers_missing())}")
    export_onnx_peers(dense, tmp_path)
    expected = BACKENDS["pytorch"](str(dense)).logits(IDS, threads=1)
    backend = BACKENDS["onnxruntime"](str(tmp_path))
    np.testing.assert_allclose(backend.logits(IDS, threads=2), expected, atol=1e-4)
    (logits,) = backend.prepare(Case(6, 2, 1))()  # type: ignore[misc]
    assert logits.shape == (2, 3)
    int8 = BACKENDS["onnxruntime-int8"](str(tmp_path)).logits(IDS, threads=1)
    assert 0 < np.abs(int8 - expected).max() < 0.2
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.onnx", "model-int8.onnx"}


def test_a_case_draws_the_same_tokens_every_time() -> None:
    first, second = (case_input_ids(Case(16, 3), vocab_size=5000) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.shape == (3, 16)
    assert first.min() >= 1000
    assert case_input_ids(Case(16), vocab_size=50).max() < 50
