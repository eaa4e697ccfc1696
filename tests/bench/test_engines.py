"""The engines of a comparison: their names, what is missing, and the models that they get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoint import write_tiny_checkpoint

from secateur.bench import engines, synthetic
from secateur.bench.backends import BACKENDS
from secateur.bench.engines import ENGINES, OURS, PeerEngine, check_dense, choose_engines, why_missing
from secateur.bench.forms import build_forms
from secateur.bench.inputs import onnx_inputs, padded
from secateur.bench.peers import onnx_peers_missing
from secateur.bench.synthetic import SyntheticShape
from secateur.bench.worker import Case, Worker
from secateur.checkpoint import decode_weight, linear_names, read_checkpoint, tensor_name
from secateur.errors import DataError, MissingExtraError, UnsupportedError
from secateur.runtime.engine import Engine

IDS = [[2, 5, 6, 3], [2, 7, 3], [2, 8, 9, 10, 11, 3]]


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that cannot be had."""
    peer = PeerEngine("nothing", "absent", ("no_such_engine",), (), "ask for it")
    monkeypatch.setattr(engines, "ENGINES", {OURS: ENGINES[OURS], "absent": peer})


def test_every_engine_has_a_backend() -> None:
    assert set(ENGINES) <= set(BACKENDS)


def test_engines_are_chosen_by_name() -> None:
    assert choose_engines("secateur, secateur") == ([OURS], {})
    with pytest.raises(UnsupportedError, match="no engine 'tensorrt'; known are secateur, onnxruntime"):
        choose_engines("secateur,tensorrt")
    with pytest.raises(UnsupportedError, match="no engine ''"):
        choose_engines("")


@pytest.mark.usefixtures("absent")
def test_what_is_not_installed_is_named() -> None:
    said = "absent needs no_such_engine, which is not installed: ask for it"
    with pytest.raises(MissingExtraError, match=said):
        choose_engines("secateur,absent")
    assert choose_engines("all") == ([OURS], {"absent": said})


@pytest.mark.parametrize(
    ("config", "error", "said"),
    [
        ("{", DataError, "cannot be read"),
        (None, DataError, "cannot be read"),
        ({"model_type": "bert", "quantization_config": {}}, UnsupportedError, "is a compressed model"),
        ({"model_type": "gpt2"}, UnsupportedError, "is a 'gpt2' model"),
        ({"model_type": "bert", "max_position_embeddings": 7}, DataError, "has 7 positions"),
    ],
)
def test_a_dense_model_that_will_not_do(
    tmp_path: Path, config: Any, error: type[Exception], said: str
) -> None:
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(error, match=said):
        check_dense(tmp_path, seq_len=8)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    if onnx_peers_missing():
        pytest.skip(f"not installed: {', '.join(onnx_peers_missing())}")
    return write_tiny_checkpoint(tmp_path / "model", hidden_act="gelu")


def test_forms_are_built_once_and_only_for_one_model(checkpoint: Path, tmp_path: Path) -> None:
    work = tmp_path / "forms"
    names = ["secateur", "pytorch", "onnxruntime-int8"]
    forms = build_forms(names, checkpoint, None, 8, work)
    assert forms["secateur"] == checkpoint
    answers = {name: BACKENDS[name](str(forms[name])).logits(IDS, 1) for name in names[1:]}
    np.testing.assert_allclose(answers["pytorch"], answers["onnxruntime-int8"], atol=0.2)
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*")}
    assert build_forms(names, checkpoint, None, 8, work) == forms
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*")} == before
    other = write_tiny_checkpoint(tmp_path / "other", hidden_act="relu")
    with pytest.raises(DataError, match="holds the forms of another model"):
        build_forms(names, other, None, 8, work)


def test_deepsparse_gets_the_weights_of_the_checkpoint_as_integers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if onnx_peers_missing():
        pytest.skip(f"not installed: {', '.join(onnx_peers_missing())}")
    import onnx
    import onnxruntime

    monkeypatch.setitem(synthetic.SHAPES, "tiny", SyntheticShape(2, 64, 4, vocab_size=100, max_positions=32))
    folder = synthetic.write_synthetic(tmp_path / "model", "tiny", sparsity=0.6)
    path = str(build_forms(["deepsparse"], folder, None, 8, tmp_path)["deepsparse"] / "model-deepsparse.onnx")
    graph = onnx.load(path).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MatMulInteger") == 2 * (6 + 2)
    assert "MatMul" not in kinds
    # The query's weight comes first, and stands the other way round.
    weight = next(onnx.numpy_helper.to_array(one) for one in graph.initializer if one.name.endswith("_s8"))
    stored = read_checkpoint(folder).tensors
    pieces = {
        key: stored[tensor_name(linear_names(0).query, key)] for key in ("weight_values", "weight_mask")
    }
    expected, _ = decode_weight(pieces, 64)
    assert np.mean(weight == 0) == pytest.approx(0.6, abs=0.03)
    assert not weight.T[expected == 0].any()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = np.concatenate([session.run(None, onnx_inputs(*padded([ids])))[0] for ids in IDS])
    np.testing.assert_allclose(found, Engine.from_pretrained(folder)(IDS), atol=0.3)


@pytest.mark.parametrize("name", ["openvino", "openvino-int8", "deepsparse"])
def test_peers_that_are_set_up_compute_what_the_model_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    reason = why_missing(name)
    if reason:
        pytest.skip(reason)
    monkeypatch.setitem(synthetic.SHAPES, "tiny", SyntheticShape(2, 64, 4, vocab_size=100, max_positions=32))
    folder = synthetic.write_synthetic(tmp_path / "model", "tiny", sparsity=0.6)
    forms = build_forms([name, "pytorch"], folder, None, 8, tmp_path)
    with Worker(name, forms[name], python=ENGINES[name].python()) as worker:
        found = worker.logits(IDS)
        assert len(worker.turn(Case(8, 2, 1), calls=2).samples_ms) == 2
        facts = worker.facts()
    assert facts["details"].get("supported_ops", 1) == 1
    assert ENGINES[name].modules[0] in facts["versions"]
    if ENGINES[name].dense:
        expected = BACKENDS["pytorch"](str(forms["pytorch"])).logits(IDS, 1)
    else:
        expected = Engine.from_pretrained(folder)(IDS)
    np.testing.assert_allclose(found, expected, atol=1e-4 if name == "openvino" else 0.3)
