"""How many threads this process may keep busy."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["usable_threads"]

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def usable_threads() -> tuple[int, str]:
    """Returns how many CPUs this process may use: those of its affinity mask, or its cgroup quota if smaller.

    Containers are often given a share of the time of all CPUs; a thread for each would only wait.

    Returns:
        The number, at least 1, and what limits it.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(_CGROUP_ROOT, _OWN_CGROUP)
    if quota is not None and quota < affinity:
        return max(1, int(quota)), f"the cgroup quota of {quota:g} CPUs"
    return affinity, "the CPUs that this process may use"


def _cgroup_quota(root: Path, own: Path) -> float | None:
    """Returns the smallest CPU quota on the way from the process's control group to the root, if any."""
    try:
        groups = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return None
    quotas: list[float] = []
    for group in groups:
        if len(group) != 3:
            continue
        _, controllers, name = group
        if controllers not in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
            continue
        base = root / controllers if controllers else root
        # Inside a container the path may name folders that only the host sees; the root is then our own.
        path = base / name.strip("/")
        for folder in (path, *path.parents):
            quota = _quota_v1(folder) if controllers else _quota_v2(folder)
            if quota is not None:
                quotas.append(quota)
            if folder == base:
                break
    return min(quotas, default=None)


def _quota_v2(folder: Path) -> float | None:
    try:
        limit, period = (folder / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        limit = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return limit / period if limit > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
