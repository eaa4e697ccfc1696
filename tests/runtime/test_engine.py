from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference_engine import fma, reference_logits
from tiny_checkpoint import Numbers, write_tiny_checkpoint

from secateur import Engine
from secateur.checkpoint import read_checkpoint
from secateur.errors import CheckpointError, DataError, UnsupportedError
from secateur.tasks.agreement import agreement

native = pytest.importorskip("secateur._engine")
ISAS = list(native.cpu_info()["isas"])


def _sequences(count: int, seed: int = 0, longest: int = 24) -> list[list[int]]:
    random = np.random.default_rng(seed)
    lengths = [1, longest, *random.integers(1, longest + 1, count - 2)]
    return [random.integers(0, 50, length).tolist() for length in lengths]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_new"])
@pytest.mark.parametrize("density", [0.3, None])
def test_logits_are_those_of_the_numeric_law(
    tmp_path: Path, isa: str, activation: str, density: float | None
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model", density=density, hidden_act=activation)
    sequences = _sequences(60)
    types = [[int(i % 3 == 0) for i in ids] for ids in sequences]
    logits = Engine.from_pretrained(folder, num_threads=2, isa=isa)(sequences, types)
    expected = reference_logits(read_checkpoint(folder), sequences, types)
    assert logits.dtype == np.float32
    found = agreement(expected, logits)
    # A rounding that falls the other way moves a token a little; GELU moves more, because it is approximated.
    assert found["mean_difference"] < (1e-3 if activation == "relu" else 5e-3)
    assert found["worst_margin"] < 0.02
    if activation == "relu":
        close = np.isclose(logits, expected, rtol=1e-4, atol=1e-5).all(axis=1)
        assert close.mean() > 0.8


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_new"])
@pytest.mark.parametrize("density", [0.3, None])
def test_float_logits_are_those_of_the_numeric_law(
    tmp_path: Path, isa: str, activation: str, density: float | None
) -> None:
    folder = write_tiny_checkpoint(
        tmp_path / "model", density=density, numbers="float32", hidden_act=activation
    )
    sequences = _sequences(60)
    types = [[int(i % 3 == 0) for i in ids] for ids in sequences]
    logits = Engine.from_pretrained(folder, num_threads=2, isa=isa)(sequences, types)
    expected = reference_logits(read_checkpoint(folder), sequences, types)
    if activation == "relu":  # nothing but the order of float32 sums
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    else:  # GELU is approximated to 2e-4
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("density", [0.3, None])
def test_mixed_logits_are_those_of_the_numeric_law(
    tmp_path: Path, isa: str, activation: str, density: float | None
) -> None:
    folder = write_tiny_checkpoint(
        tmp_path / "model", density=density, numbers="mixed", hidden_act=activation
    )
    sequences = _sequences(60)
    logits = Engine.from_pretrained(folder, num_threads=2, isa=isa)(sequences)
    expected = reference_logits(read_checkpoint(folder), sequences)
    found = agreement(expected, logits)
    assert found["mean_difference"] < (1e-3 if activation == "relu" else 5e-3)
    assert found["worst_margin"] < 0.02


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 48, "num_attention_heads": 2, "intermediate_size": 100},
        {"hidden_size": 64, "num_attention_heads": 16, "num_hidden_layers": 1},
        {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 36, "layer_norm_eps": 1e-5},
    ],
)
@pytest.mark.parametrize("numbers", ["int8", "float32", "mixed"])
def test_other_sizes_run(tmp_path: Path, changes: dict[str, Any], numbers: Numbers) -> None:
    if numbers == "mixed":
        changes = {**changes, "num_hidden_layers": 3}
    folder = write_tiny_checkpoint(tmp_path / "model", hidden_act="relu", numbers=numbers, **changes)
    sequences = _sequences(20)
    expected = reference_logits(read_checkpoint(folder), sequences)
    assert agreement(expected, Engine.from_pretrained(folder, 1)(sequences))["mean_difference"] < 2e-3


@pytest.mark.parametrize("numbers", ["int8", "float32", "mixed"])
def test_the_form_of_the_batch_does_not_matter(tmp_path: Path, numbers: Numbers) -> None:
    engine = Engine.from_pretrained(write_tiny_checkpoint(tmp_path / "model", numbers=numbers), num_threads=1)
    sequences = _sequences(9)
    expected = engine(sequences)
    assert expected.shape == (9, 3)
    padded = np.full((9, 24), 49, np.int64)
    mask = np.zeros((9, 24), np.int64)
    for row, ids in enumerate(sequences):
        padded[row, : len(ids)] = ids
        mask[row, : len(ids)] = 1
    np.testing.assert_array_equal(engine(padded, attention_mask=mask), expected)
    np.testing.assert_array_equal(engine(padded.tolist(), padded * 0, mask.astype(bool).tolist()), expected)
    np.testing.assert_array_equal(engine([np.array(ids, np.uint8) for ids in sequences]), expected)
    for row, ids in enumerate(sequences):
        np.testing.assert_array_equal(engine([ids])[0], expected[row])
    assert engine([]).shape == engine(np.zeros((0, 5), np.int32)).shape == (0, 3)


@pytest.mark.parametrize("numbers", ["int8", "float32", "mixed"])
def test_threads_share_an_engine(tmp_path: Path, numbers: Numbers) -> None:
    engine = Engine.from_pretrained(write_tiny_checkpoint(tmp_path / "model", numbers=numbers), num_threads=2)
    sequences = _sequences(40)
    expected = engine(sequences)
    wrong: list[int] = []

    def call(number: int) -> None:
        for _ in range(20):
            if not np.array_equal(engine(sequences), expected):
                wrong.append(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_it_says_what_it_is(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model")
    engine = Engine.from_pretrained(folder, num_threads=1, isa="reference")
    assert repr(engine) == f"Engine({str(folder)!r}, num_threads=1, isa='reference')"
    assert engine.labels == ["alarm", "table", "time"]
    assert engine.max_length == 24
    engine.profile()
    engine([[1, 2, 3]])
    steps = engine.inspect()
    linears = [step for step in steps if step["name"].endswith("query")]
    assert [step["n"] for step in linears] == [32, 32]
    assert all(0.3 < step["density"] < 0.7 and "reference" in step["kernel"] for step in linears)
    assert sum(step["ms"] for step in steps) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1, 2], []],), "Sequence 1 has no tokens"),
        (([[1], list(range(25))],), "Sequence 1 has 25 tokens, and the model takes at most 24: truncate it"),
        (([[1, 2], [3, 50]],), "Token id 50 in sequence 1 is outside 0 to 49"),
        (([[1, 2], [3, -1]],), "Token id -1 in sequence 1"),
        (([[2**32]],), "Token id 4294967296 in sequence 0"),
        (([[2**64]],), "must be integers"),
        (([[1.0]],), "must be integers, but is float64"),
        (([["a"]],), "must be integers"),
        (([1, 2],), "must be a batch"),
        ((5,), "must be a list of lists"),
        ((np.zeros(3, np.int64),), r"must be \[batch, length\], but this array is \[3\]"),
        (([[1, 2]], [[0]]), "token_type_ids must have the shape of input_ids"),
        (([[1, 2]], [[0, 2]]), "Token type 2 in sequence 0 is outside 0 to 1"),
        (([[1, 2]], None, [[0, 1]]), "attention_mask of sequence 0 has a 0 before a 1"),
        (([[1, 2], [3, 4]], None, [[1, 0], [0, 0]]), "Sequence 1 has no tokens"),
        (([[1, 2]], None, [[1, 1], [1, 1]]), "attention_mask must have the shape of input_ids"),
    ],
)
def test_wrong_ids_are_refused(tmp_path: Path, arguments: tuple[Any, ...], message: str) -> None:
    engine = Engine.from_pretrained(write_tiny_checkpoint(tmp_path / "model"), num_threads=1)
    with pytest.raises(DataError, match=message) as caught:
        engine(*arguments)
    assert isinstance(caught.value, ValueError)


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model")
    for num_threads in (0, -1, 5000, True, 1.5):
        with pytest.raises(DataError, match="num_threads must be an integer from 1 to 1024"):
            Engine.from_pretrained(folder, num_threads=num_threads)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="sse9"):
        Engine.from_pretrained(folder, isa="sse9")
    with pytest.raises(CheckpointError, match="is not a folder"):
        Engine.from_pretrained(tmp_path / "nowhere")


def test_the_forced_instruction_set_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model")
    monkeypatch.setenv("SECATEUR_ISA", "reference")
    assert Engine.from_pretrained(folder).isa == "reference"
    assert Engine.from_pretrained(folder, isa=ISAS[0]).isa == ISAS[0]
    monkeypatch.setenv("SECATEUR_ISA", "sse9")
    with pytest.raises(UnsupportedError, match="sse9"):
        Engine.from_pretrained(folder)


def test_what_the_plan_refuses_is_a_checkpoint_error(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(
        tmp_path / "model", density=None, hidden_size=30, num_attention_heads=2, intermediate_size=64
    )
    with pytest.raises(CheckpointError, match="cannot be run: hidden_size must be a multiple of 4"):
        Engine.from_pretrained(folder)


def test_fma_rounds_once() -> None:
    a, b = np.float32([1 + 2**-12, 3.0]), np.float32([1 + 2**-12, 1 / 3])
    c = np.float32([-1.0, -1.0])
    np.testing.assert_array_equal(fma(a, b, c), np.float32([2**-11 + 2**-24, 2**-25]))
    random = np.random.default_rng(0)
    x, y, z = random.normal(size=(3, 2000)).astype(np.float32)
    exact = np.float64(x) * np.float64(y) + np.float64(z)
    np.testing.assert_allclose(fma(x, y, z), exact, rtol=2**-23)
