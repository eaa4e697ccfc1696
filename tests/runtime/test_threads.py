from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny_checkpoint import write_tiny_checkpoint

from secateur import Engine
from secateur.runtime import threads
from secateur.runtime.threads import usable_threads


def _groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, **files: str) -> None:
    (tmp_path / "own").write_bytes(os.fsencode(own))
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


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        # version 1 with version 2 beside it, as systemd mounts them
        (
            "1:cpu:/job\n0::/job\n",
            {"cpu__job__cpu_cfs_quota_us": "500000", "cpu__job__cpu_cfs_period_us": "100000"},
            5,
        ),
        ("1:memory:/\n0::/job\n", {"unified__job__cpu_max": "300000 100000"}, 3),
        # controllers mounted under one name and linked under another
        (
            "2:cpuacct,cpu:/job\n",
            {"cpu__job__cpu_cfs_quota_us": "400000", "cpu__job__cpu_cfs_period_us": "100000"},
            4,
        ),
        (
            "2:cpu,cpuset,memory:/job\n",
            {"cpu__job__cpu_cfs_quota_us": "400000", "cpu__job__cpu_cfs_period_us": "100000"},
            4,
        ),
        ("3:cpuset:/job\n", {"cpuset__job__cpu_cfs_quota_us": "1"}, 8),
        # in a container the name is the host's
        (
            "2:cpu:/docker/4f2a\n",
            {"cpu__cpu_cfs_quota_us": "150000", "cpu__cpu_cfs_period_us": "100000"},
            1,
        ),
        ("0::/kube/pod\n", {"cpu_max": "799999 100000"}, 7),
        ("0::/\udcff/b\n", {"cpu_max": "200000 100000"}, 2),
        # more than the affinity, or no sense
        ("0::/\n", {"cpu_max": "6400000 100000"}, 8),
        ("0::/\n", {"cpu_max": ""}, 8),
        ("0::/\n", {"cpu_max": "max"}, 8),
        ("0::/\n", {"cpu_max": "0 100000"}, 8),
        ("0::/\n", {"cpu_max": "100000 0"}, 8),
        ("0::/\n", {"cpu_max": "-1 100000"}, 8),
        ("0::/\n", {"cpu_max": "x y"}, 8),
        ("1:cpu:/\n", {"cpu__cpu_cfs_quota_us": "100000"}, 8),
    ],
)
def test_control_groups_as_systems_mount_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str], expected: int
) -> None:
    _groups(tmp_path, monkeypatch, own, **files)
    assert usable_threads()[0] == expected


def test_affinity_is_that_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cpuset reaches the process as affinity, too; the engine takes as many threads."""
    monkeypatch.setattr(threads, "_OWN_CGROUP", tmp_path / "none")
    allowed = os.sched_getaffinity(0)
    assert usable_threads()[0] == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_threads()[0] == 1
        pytest.importorskip("secateur._engine")
        assert Engine.from_pretrained(write_tiny_checkpoint(tmp_path / "model")).num_threads == 1
    finally:
        os.sched_setaffinity(0, allowed)
