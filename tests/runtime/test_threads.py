from __future__ import annotations

import os
from pathlib import Path

import pytest

from secateur.runtime import threads
from secateur.runtime.threads import usable_threads


def _groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, **files: str) -> None:
    (tmp_path / "own").write_text(own)
    for name, content in files.items():
        path = tmp_path / "root" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name.replace("cpu_max", "cpu.max").replace("cpu_cfs", "cpu.cfs")).write_text(
            content
        )
    monkeypatch.setattr(threads, "_CGROUP_ROOT", tmp_path / "root")
    monkeypatch.setattr(threads, "_OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def test_affinity_counts_without_a_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _groups(tmp_path, monkeypatch, "0::/a/b\n", a__cpu_max="max 100000\n")
    assert usable_threads()[0] == 8
    (tmp_path / "own").unlink()
    assert usable_threads()[0] == 8


def test_the_smallest_quota_on_the_way_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _groups(tmp_path, monkeypatch, "0::/a/b\n", a__cpu_max="250000 100000\n", a__b__cpu_max="300000 100000\n")
    assert usable_threads() == (2, "the cgroup quota of 2.5 CPUs")


def test_less_than_one_cpu_is_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _groups(tmp_path, monkeypatch, "0::/../host\n", cpu_max="50000 100000\n")
    assert usable_threads()[0] == 1


def test_the_first_version_of_control_groups_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _groups(
        tmp_path,
        monkeypatch,
        "4:memory:/x\n3:cpu,cpuacct:/job\nbroken\n",
        **{"cpu,cpuacct__job__cpu_cfs_quota_us": "300000", "cpu,cpuacct__job__cpu_cfs_period_us": "100000"},
    )
    assert usable_threads()[0] == 3
    (tmp_path / "root/cpu,cpuacct/job/cpu.cfs_quota_us").write_text("-1")
    assert usable_threads()[0] == 8
