"""The machine's description: complete, serializable, without names."""

from __future__ import annotations

import json
import platform

import pytest

from secateur.bench import machine


def test_description_says_what_figures_need() -> None:
    found = machine.describe_machine()
    assert set(found) == {"cpu", "isas", "cores", "threads", "memory_gb", "system", "python", "versions"}
    assert found["cpu"]
    assert 1 <= found["threads"] <= found["cores"]
    assert found["versions"]["numpy"]
    text = json.dumps(found)
    assert len(platform.node()) < 4 or platform.node() not in text


def test_versions_of_what_is_not_installed_are_none() -> None:
    found = machine.installed_versions(("numpy", "no-such-distribution"))
    assert found["numpy"]
    assert found["no-such-distribution"] is None


def test_without_the_engine_the_processor_is_still_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "engine_cpu_info", lambda: None)
    found = machine.describe_machine()
    assert found["cpu"]
    assert found["isas"] == []


def test_memory_is_plausible() -> None:
    now, peak = machine.resident_memory_mb(), machine.resident_memory_mb(peak=True)
    assert (now is None and peak is None) or (now and peak and 5 < now <= peak)
