"""Where zeros begin to pay, on ratios that can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.bench import synthetic
from secateur.bench.break_even import F32, INT8, Candidate, Models, analyse, candidates, pays_from
from secateur.bench.measure import Timing, Turn
from secateur.bench.synthetic import SyntheticShape
from secateur.bench.worker import Worker


def test_the_point_is_interpolated_on_a_logarithmic_scale() -> None:
    assert pays_from({0.5: 0.5, 0.7: 2.0}) == {"sparsity": 0.6, "how": "interpolated"}
    assert pays_from({0.9: 4.0, 0.8: 2**-0.5, 0.5: 0.1}) == {"sparsity": 0.82, "how": "interpolated"}


def test_equal_counts_as_paying() -> None:
    assert pays_from({0.5: 0.9, 0.6: 1.0, 0.7: 1.2}) == {"sparsity": 0.6, "how": "interpolated"}


def test_it_must_pay_from_there_on() -> None:
    assert pays_from({0.5: 1.1, 0.6: 0.5, 0.8: 2.0, 0.9: 3.0})["sparsity"] == 0.7


def test_always_and_never() -> None:
    assert pays_from({0.5: 1.5, 0.9: 3.0}) == {"sparsity": 0.5, "how": "at the first measured"}
    assert pays_from({0.5: 0.2, 0.99: 0.9}) == {"sparsity": None, "how": "never"}


@pytest.mark.parametrize("speedups", [{}, {0.5: 0.0}, {0.5: float("nan")}])
def test_what_is_no_ratio_is_refused(speedups: dict[float, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        pays_from(speedups)


def timing(milliseconds: float) -> Timing:
    return Timing((Turn((milliseconds,) * 3), Turn((milliseconds * 1.1,) * 3)))


def unused(_: float) -> Worker:
    raise AssertionError("nothing is started")


CANDIDATES = [
    Candidate("peer", F32, unused, sparse=False),
    Candidate("ours f32 dense", F32, unused, sparse=False, ours="avx2"),
    Candidate("ours int8 dense", INT8, unused, sparse=False, ours="avx2"),
    Candidate("ours f32", F32, unused, ours="avx2"),
    Candidate("ours int8", INT8, unused, ours="avx2"),
    Candidate("ours int8, other set", INT8, unused, ours="avx512vnni"),
]


def test_every_sparse_candidate_is_set_against_every_dense_one() -> None:
    at_half = {"peer": 8.0, "ours f32 dense": 8.0, "ours int8 dense": 4.0, "ours f32": 16.0, "ours int8": 4.0}
    at_most = {"peer": 8.0, "ours f32 dense": 8.0, "ours int8 dense": 4.0, "ours f32": 4.0, "ours int8": 1.0}
    found = analyse(
        {
            0.5: {name: timing(ms) for name, ms in at_half.items()},
            0.9: {name: timing(ms) for name, ms in at_most.items()},
        },
        CANDIDATES[:5],
    )
    assert found["candidates"]["ours int8"]["latency_ms"] == {"0.5": 4.2, "0.9": 1.05}
    assert set(found["pays_from"]) == {"ours f32", "ours int8"}
    assert found["pays_from"]["ours f32"]["peer"] == {"sparsity": 0.7, "how": "interpolated"}
    assert found["pays_from"]["ours f32"]["ours int8 dense"]["sparsity"] == 0.9
    assert found["pays_from"]["ours int8"]["peer"] == {"sparsity": 0.5, "how": "at the first measured"}
    assert found["speedup"]["ours int8"]["peer"]["0.9"] == {"ratio": 8.0, "low": 8.0, "high": 8.0}
    gains = found["int8_over_f32"]
    assert {name: [one["ratio"] for one in ratios.values()] for name, ratios in gains.items()} == {
        "ours int8 dense over ours f32 dense": [2.0, 2.0],
        "ours int8 over ours f32": [4.0, 4.0],
    }


def test_what_failed_at_one_sparsity_is_compared_at_the_others() -> None:
    timings = {0.5: {"peer": timing(2.0)}, 0.9: {"peer": timing(2.0), "ours f32": timing(1.0)}}
    found = analyse(timings, [CANDIDATES[0], CANDIDATES[3]])
    assert found["pays_from"]["ours f32"]["peer"]["sparsity"] == 0.9
    assert list(found["speedup"]["ours f32"]["peer"]) == ["0.9"]


def test_the_pruned_model_has_the_zeros_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from safetensors.numpy import load_file

    monkeypatch.setitem(synthetic.SHAPES, "tiny", SyntheticShape(2, 64, 4, vocab_size=100, max_positions=32))
    models = Models(tmp_path, "tiny", 2, 16)
    folder = models.pruned(0.9)
    assert models.pruned(0.9) == folder
    tensors = load_file(folder / "model.safetensors")
    matrices = [tensors[name] for name in tensors if "encoder" in name and name.endswith("dense.weight")]
    assert len(matrices) == 6
    assert all(abs((matrix == 0).mean() - 0.9) < 0.01 for matrix in matrices)
    models.forget(0.9)
    assert not folder.exists()


def test_every_candidate_has_a_name_of_its_own(tmp_path: Path) -> None:
    found = candidates(Models(tmp_path, "minilm-l6", 1, 16), ["avx512vnni", "avx2"])
    assert len({one.name for one in found}) == len(found)
    assert [one.ours for one in found if one.ours and one.sparse] == ["avx512vnni"] * 3 + ["avx2"] * 3
    assert any(one.sparse and one.name.startswith("torch.sparse") for one in found)
