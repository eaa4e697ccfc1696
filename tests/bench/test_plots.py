"""Figures show what was measured, with units, machine and no more."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from secateur.bench import plots
from secateur.bench.plots import Line, line_figure, log_axis, write_page, write_png
from secateur.bench.sweep_plots import sweep_figures
from secateur.errors import DataError, MissingExtraError

pytest.importorskip("plotly")


def row(seq_len: int, batch_size: int, sparsity: float, threads: int, ms: float) -> dict[str, Any]:
    return {
        "seq_len": seq_len,
        "batch_size": batch_size,
        "sparsity": sparsity,
        "threads": threads,
        "layers": 12,
        "latency_ms": {"median": ms, "low": ms - 1, "high": ms + 2},
        "throughput": batch_size / ms * 1e3,
        "work": {"gmac": ms / 100, "weight_mb": 20.0},
    }


RESULTS: dict[str, Any] = {
    "about": {"model": "bert-base", "pattern": "block4", "quantized": True, "isa": "avx2", "cpu": "A <CPU>"},
    "base": {"seq_len": 128, "batch_size": 1, "sparsity": 0.8, "threads": 1, "layers": 12},
    "roof": {"int8_gmacs": 120.0, "f32_gmacs": 60.0, "memory_gbs": 30.0},
    "points": [
        row(128, 1, 0.8, 1, 10.0),
        row(8, 1, 0.8, 1, 3.0),
        row(128, 4, 0.8, 1, 38.0),
        row(128, 1, 0.9, 1, 6.0),
        row(128, 1, 0.8, 2, 6.0),
        row(8, 1, 0.8, 2, 2.0),
    ],
}


def test_lines_hold_the_rows_that_differ_in_their_axis_alone() -> None:
    figures = sweep_figures(RESULTS)
    assert list(figures) == ["latency_length", "latency_sparsity", "throughput_batch", "roofline"]
    by_length = figures["latency_length"]
    assert [(trace.name, list(trace.x), list(trace.y)) for trace in by_length.data] == [
        ("1 thread", [8, 128], [3.0, 10.0]),
        ("2 threads", [8, 128], [2.0, 6.0]),
    ]
    assert list(by_length.data[0].error_y.array) == [2.0, 2.0]
    assert list(by_length.data[0].error_y.arrayminus) == [1.0, 1.0]
    (by_sparsity,) = figures["latency_sparsity"].data
    assert (list(by_sparsity.x), list(by_sparsity.y)) == ([0.8, 0.9], [10.0, 6.0])
    (by_batch,) = figures["throughput_batch"].data
    assert list(by_batch.y) == pytest.approx([100.0, 4 / 38 * 1e3])


def test_every_figure_names_units_and_machine() -> None:
    units = {
        "latency_length": ("tokens", "ms"),
        "latency_sparsity": ("zeros", "ms"),
        "throughput_batch": ("texts", "texts a second"),
        "roofline": ("MAC a byte", "GMAC/s"),
    }
    for name, figure in sweep_figures(RESULTS).items():
        assert units[name][0] in figure.layout.xaxis.title.text
        assert units[name][1] in figure.layout.yaxis.title.text
        assert "A &lt;CPU&gt;, avx2" in figure.layout.title.text


def test_the_roofline_has_the_points_of_one_thread_under_the_roof() -> None:
    roof, *kinds = sweep_figures(RESULTS)["roofline"].data
    assert (roof.x[1], roof.y[1]) == (4.0, 120.0)
    assert roof.y[0] == pytest.approx(30.0 * roof.x[0])
    assert [trace.name for trace in kinds] == ["base case", "other length", "other batch", "other zeros"]
    base = kinds[0]
    assert base.y[0] == pytest.approx(0.1 / 10.0 * 1e3)
    assert base.x[0] == pytest.approx(0.1 * 1e3 / 20.0)


def test_what_was_not_measured_has_no_figure() -> None:
    little = copy.deepcopy(RESULTS)
    little["points"] = [row(128, 1, 0.8, 2, 10.0)]
    assert sweep_figures(little) == {}


def test_modelled_lines_look_different() -> None:
    lines = [Line("measured", [1, 2], [4.0, 2.0]), Line("modelled", [2, 4], [2.0, 1.2], modelled=True)]
    measured, modelled = line_figure("T", "S", lines, x_title="threads", y_title="ms").data
    assert (measured.line.dash, measured.marker.symbol) == ("solid", "circle")
    assert (modelled.line.dash, modelled.marker.symbol) == ("dash", "circle-open")


def test_logarithmic_ticks_are_spelt_out() -> None:
    axis = log_axis([0.7, 30.0])
    assert axis["ticktext"] == ["0.1", "0.2", "0.5", "1", "2", "5", "10", "20", "50", "100", "200", "500"]


def test_a_page_escapes_its_title_and_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    write_page(path, "a <b>", {})
    assert "<h1>a &lt;b&gt;</h1>" in path.read_text()
    assert "Too few points" in path.read_text()
    with pytest.raises(DataError, match="is a folder"):
        write_page(tmp_path, "title", {})


def test_without_kaleido_or_plotly_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unable:
        def write_image(self, *_: object, **__: object) -> None:
            raise ValueError("\nImage export requires kaleido\n")

    with pytest.raises(MissingExtraError, match=r"pip install .*kaleido.*Image export requires"):
        write_png(tmp_path, {"figure": Unable()})
    monkeypatch.setattr(plots, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"secateur\[report\]"):
        plots.require_plotly()
