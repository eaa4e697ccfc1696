"""The BiLSTM: its size, its graph against PyTorch, what it learns, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_bilstm import SPLITS, TAGGED, taught
from transformers import PretrainedConfig

from secateur.baselines.bilstm import BiLstm, bilstm
from secateur.baselines.bilstm_network import MOST_PARAMETERS, bilstm_for, known_pieces
from secateur.data import Splits
from secateur.errors import DataError, MissingExtraError, UnsupportedError
from secateur.tasks import FillMask

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taught(SPLITS, tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taught(TAGGED, tmp_path_factory.mktemp("tagger"))


@pytest.mark.parametrize("labels", [2, 150, 1000])
def test_it_stays_under_a_million_parameters_whatever_the_rows(labels: int) -> None:
    rows = [[token, token] for token in range(50_000)]
    pieces = known_pieces(rows, 50_000, labels)
    config = PretrainedConfig(num_labels=labels, vocab_size=50_000)
    network = bilstm_for("sequence", config, pieces, torch.randn(50_000, 32))
    count = sum(one.numel() for one in network.parameters())
    assert MOST_PARAMETERS - 200 < count < MOST_PARAMETERS


def test_the_most_frequent_pieces_are_known_and_the_rest_share_a_row() -> None:
    pieces = known_pieces([[7, 7, 3], [3, 9]], 12, 2)
    assert pieces.tolist() == [0, 0, 0, 1, 0, 0, 0, 2, 0, 3, 0, 0]
    many = known_pieces([[token] * (1 + (token == 49_999)) for token in range(50_000)], 50_000, 2)
    assert many[49_999] > 0
    assert many[49_998] == 0
    with pytest.raises(UnsupportedError, match="5000 labels leave no room for words"):
        known_pieces([[1]], 10, 5000)


@pytest.mark.parametrize("head", ["sequence", "token"])
def test_the_graph_computes_what_pytorch_does(head: str) -> None:
    from secateur.export.onnx import to_onnx

    torch.manual_seed(0)
    pieces = known_pieces([list(range(5, 30))], 40, 4)
    config = PretrainedConfig(num_labels=4, vocab_size=40)
    network = bilstm_for(head, config, pieces, torch.randn(40, 96)).eval()
    session = onnxruntime.InferenceSession(to_onnx(network.weights()), providers=["CPUExecutionProvider"])
    lengths = (7, 1, 4)
    ids = torch.randint(0, 40, (3, 7))
    mask = torch.tensor([[1] * length + [0] * (7 - length) for length in lengths])
    with torch.no_grad():
        expected = network(ids, mask).logits.numpy()
    feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    (found,) = session.run(["logits"], feed)
    for row, length in enumerate(lengths):
        own = found[row, :length] if head == "token" else found[row]
        other = expected[row, :length] if head == "token" else expected[row]
        np.testing.assert_allclose(own, other, atol=1e-5)
        alone = {name: one[row : row + 1, :length] for name, one in feed.items()}  # no padding beside it
        np.testing.assert_allclose(session.run(["logits"], alone)[0][0], own, atol=1e-5)


def test_it_learns_what_its_teacher_says(classifier: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    row = bilstm(classifier, SPLITS, tmp_path / "out", seed=3, epochs=1, min_steps=120, progress=False)
    assert row["engine"] == "onnxruntime"
    assert row["parameters"] < MOST_PARAMETERS
    assert row["test"]["accuracy"] > 0.9
    assert row["name"] == "BiLSTM, distilled"
    out = tmp_path / "out"
    assert row["size_mb"] == round((out / "model.onnx").stat().st_size / 1e6, 3)
    onnx.checker.check_model(onnx.load(str(out / "model.onnx")), full_check=True)
    config = json.loads((out / "config.json").read_text())
    assert list(config["id2label"].values()) == ["weather", "travel", "music"]
    assert json.loads((out / "metrics.json").read_text()) == row
    assert (out / "tokenizer.json").is_file()


def test_its_teacher_is_all_it_learns_from(classifier: Path) -> None:
    """Rows with wrong labels change nothing: no label is learnt."""
    turned = {"weather": "travel", "travel": "music", "music": "weather"}
    wrong = [type(row)(row.text, turned[row.label]) for row in SPLITS.train[:24]]
    logits = []
    for rows in (SPLITS.train[:24], wrong):
        network = BiLstm(SPLITS.task, classifier, 3, epochs=0.1, min_steps=1)
        network.fit(rows, [])
        logits.append(np.stack(network.outputs(SPLITS.test)[1]))
    assert np.array_equal(*logits)


def test_tags_too(tagger: Path) -> None:
    row = bilstm(tagger, TAGGED, seed=3, epochs=1, min_steps=120, progress=False)
    assert row["test"][TAGGED.task.main_metric] > 0.8


def test_without_onnx_it_runs_in_pytorch_and_cannot_be_written(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'secateur\[onnx\]'"):
        bilstm(classifier, SPLITS, tmp_path / "out", progress=False)
    network = BiLstm(SPLITS.task, classifier, 3, epochs=0.1, min_steps=1)
    network.fit(SPLITS.train[:24], [])
    assert network.engine == "PyTorch"
    assert network.size_bytes() == 4 * network.parameters
    assert len(network.outputs(SPLITS.test)[1]) == len(SPLITS.test)
    assert not (tmp_path / "out").exists()


def test_what_it_cannot_do_is_refused(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="A BiLSTM does not answer fill-mask"):
        BiLstm(FillMask(), classifier)
    with pytest.raises(DataError, match="is not fine-tuned for token-classification and cannot teach"):
        BiLstm(TAGGED.task, classifier)
    rows = [type(row)(row.text, "other") for row in SPLITS.train[:6]]
    stranger = Splits("other", type(SPLITS.task).from_rows([*rows, *SPLITS.train]), rows, [], rows)
    with pytest.raises(DataError, match="the model does not know 'other'"):
        bilstm(classifier, stranger, progress=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    with pytest.raises(UnsupportedError, match="it is left alone"):
        bilstm(classifier, SPLITS, tmp_path / "mine", progress=False)


def test_the_same_seed_gives_the_same_network(classifier: Path) -> None:
    torch.set_num_threads(1)
    graphs: list[Any] = []
    for seed in (3, 3, 4):
        network = BiLstm(SPLITS.task, classifier, seed, epochs=0.1, min_steps=1)
        network.fit(SPLITS.train[:24], [])
        graphs.append(network.graph)
    assert graphs[0] == graphs[1]
    assert graphs[0] != graphs[2]
