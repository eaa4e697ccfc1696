"""Times: one spelling each for epochs, steps and parts of the run."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from secateur.recipe.times import Clock, Time, counts_steps, shown, stretched_time

READ = TypeAdapter(Time).validate_python


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (2.5, 2.5),
        (3, 3.0),
        ("3e-1", 0.3),
        ("2.5 epochs", 2.5),
        ("1 epoch", 1.0),
        ("500 steps", "500 steps"),
        ("1 step", "1 steps"),
        (" 30% ", "30 %"),
        ("12.50 %", "12.5 %"),
        ("1e3 steps", "1000 steps"),
    ],
)
def test_a_time_is_read_and_read_again(written: object, read: object) -> None:
    assert READ(written) == read
    assert READ(READ(written)) == read


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("soon", "is no time: write 2.5 for epochs, '500 steps', or '30 %' of the run"),
        ("5 minutes", "is no time"),
        ("-3 steps", "is no time"),
        ("1e999", "is no time"),
        (True, "is no time"),
        (None, "is no time"),
        ([1], "is no time"),
        (-1, "at least 0"),
        (float("nan"), "at least 0"),
        (float("inf"), "at least 0"),
        ("2.5 steps", "whole numbers"),
        ("130 %", "0 to 100 %"),
    ],
)
def test_what_is_no_time_is_refused(written: object, answer: str) -> None:
    with pytest.raises(ValidationError, match=answer):
        READ(written)


def test_a_clock_tells_steps() -> None:
    clock = Clock(epochs=4, steps_per_epoch=50, total_steps=200)
    assert [clock.step(time) for time in (0.5, "30 steps", "25 %", 3.999)] == [25, 30, 50, 200]
    assert clock.step("900 steps") == 200
    assert (clock.epoch("100 steps"), clock.epoch("25 %"), clock.epoch(3.0)) == (2.0, 1.0, 3.0)
    with pytest.raises(ValueError, match="no steps"):
        Clock(epochs=4).step(1.0)


@pytest.mark.parametrize(
    ("clock", "time", "other", "order"),
    [
        (Clock(), 1.0, 2.0, -1),
        (Clock(), "5 steps", "4 steps", 1),
        (Clock(), "50 %", "50 %", 0),
        (Clock(), 1.0, "50 %", None),
        (Clock(epochs=4), 2.0, "50 %", 0),
        (Clock(epochs=4), 2.5, "50 %", 1),
        (Clock(epochs=4), 2.5, "1 steps", None),
        (Clock(4, 50, 200), 2.5, "126 steps", -1),
    ],
)
def test_a_clock_orders_what_it_can(
    clock: Clock, time: float | str, other: float | str, order: int | None
) -> None:
    assert clock.order(time, other) == order
    assert clock.order(other, time) == (None if order is None else -order)
    assert clock.is_later(time, other) is (order == 1)


def test_the_end_of_the_run() -> None:
    assert Clock(4).is_after_end(4.1)
    assert not Clock(4).is_after_end(4.0)
    assert not Clock(4).is_after_end("900 steps")
    assert Clock(4, 50, 200).is_after_end("201 steps")


def test_only_epochs_grow() -> None:
    assert [stretched_time(time, 2.0) for time in (1.5, "10 steps", "10 %")] == [3.0, "10 steps", "10 %"]
    assert [counts_steps(time) for time in (1.0, "1 steps", "1 %", None)] == [False, True, False, False]
    assert (shown(2.0), shown("30 %")) == ("2", "30 %")
