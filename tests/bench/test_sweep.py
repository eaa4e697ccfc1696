"""The points of a sweep, their order, and the file that survives a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secateur.bench.measure import Turn
from secateur.bench.sweep import Point, Sweep, design
from secateur.errors import DataError

BASE = Point(128, 1, 0.8, 1, 12)
ABOUT = {"model": "bert-base", "pattern": "block4", "isa": "avx2", "cpu": "CPU", "secateur": "1"}


def test_one_axis_at_a_time_starts_from_the_base() -> None:
    points = design(BASE, {"seq_len": (8, 128), "sparsity": (0.8, 0.9), "threads": (1, 2)})
    assert points == [BASE, Point(8, 1, 0.8, 1, 12), Point(128, 1, 0.9, 1, 12), Point(128, 1, 0.8, 2, 12)]


def test_a_grid_has_every_combination_once() -> None:
    points = design(BASE, {"seq_len": (8, 128), "batch_size": (1, 2, 4)}, grid=True)
    assert points[0] == BASE
    assert len(points) == len(set(points)) == 6
    assert {(point.seq_len, point.batch_size) for point in points} == {
        (length, batch) for length in (8, 128) for batch in (1, 2, 4)
    }
    outside = design(BASE, {"seq_len": (8, 16)}, grid=True)
    assert outside == [BASE, Point(8, 1, 0.8, 1, 12), Point(16, 1, 0.8, 1, 12)]


def turn(milliseconds: float) -> Turn:
    return Turn((milliseconds,) * 3, 3e-3 * milliseconds)


def test_points_take_turns_and_report_the_median_of_the_rounds() -> None:
    points = design(BASE, {"batch_size": (1, 4)})
    sweep, order = Sweep(ABOUT), []

    def take(point: Point) -> tuple[Turn, dict[str, float]]:
        order.append(point.batch_size)
        return turn(float(len(order))), {"gmac": 1.5, "weight_mb": 2.0}

    assert sweep.run(points, take, rounds=3)
    assert order == [1, 4, 1, 4, 1, 4]
    first, second = sweep.rows()
    assert first["latency_ms"] == {"median": 3.0, "low": 1.0, "high": 5.0}
    assert second["latency_ms"] == {"median": 4.0, "low": 2.0, "high": 6.0}
    assert second["throughput"] == 1000.0
    assert second["cpu_fraction"] == 1.0
    assert first["work"] == {"gmac": 1.5, "weight_mb": 2.0}


def test_a_stopped_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    points = design(BASE, {"batch_size": (1, 4, 8)})
    taken = []

    def sweep_until(stop_after: int) -> bool:
        sweep = Sweep.resume(path, ABOUT)

        def take(point: Point) -> tuple[Turn, None]:
            if len(taken) == stop_after:
                raise KeyboardInterrupt
            taken.append(point.batch_size)
            return turn(1.0), None

        return sweep.run(points, take, rounds=2, on_turn=lambda _: sweep.save(path, BASE, rounds=2))

    with pytest.raises(KeyboardInterrupt):
        sweep_until(4)
    assert [len(row["turns"]) for row in json.loads(path.read_text())["points"]] == [2, 1, 1]
    assert sweep_until(100)
    assert taken == [1, 4, 8, 1, 4, 8]
    assert sweep_until(0), "nothing is left to do"
    wider = Sweep.resume(path, ABOUT)
    assert wider.missing([*points, Point(8, 1, 0.8, 1, 12)], 3) == 3 + 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["sweep.json"]


def test_no_turn_begins_after_the_time_limit() -> None:
    sweep = Sweep(ABOUT)
    assert not sweep.run([BASE], lambda _: (turn(1.0), None), rounds=1, time_limit=0.0)
    assert sweep.rows([BASE]) == []
    assert sweep.run([BASE], lambda _: (turn(1.0), None), rounds=1, time_limit=60.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not json", "is not the file of a sweep"),
        ("[]", "is not the file of a sweep"),
        ('{"format": 2}', "is not the file of a sweep"),
        ('{"format": 1, "about": {}, "points": [{"seq_len": 8}]}', "is not the file of a sweep"),
        ('{"format": 1, "about": {"model": "tiny"}, "points": []}', "of a sweep with another"),
    ],
)
def test_another_file_is_not_continued_nor_lost(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        Sweep.resume(path, ABOUT)
    assert path.read_text() == text


def test_turns_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    sweep = Sweep(ABOUT)
    sweep.add(BASE, turn(2.0), None)
    sweep.save(path, BASE)
    assert Sweep.resume(path, ABOUT).taken(BASE) == 1
    for value in (0, -1.0, "2.0", None):
        found = json.loads(path.read_text())
        found["points"][0]["turns"][0]["median_ms"] = value
        path.write_text(json.dumps(found))
        with pytest.raises(DataError, match="is not the file of a sweep"):
            Sweep.resume(path, ABOUT)
