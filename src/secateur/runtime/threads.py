"""How many threads this process may keep busy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["usable_threads"]

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def usable_threads() -> tuple[int, str]:
    """Returns how many CPUs this process may use: those of its affinity mask, or its cgroup quota if smaller.

    Containers are often given a share of the time of all CPUs; a thread for each would only wait. A fraction
    is rounded down, because threads that run out of their share together are stopped together. Linux takes
    the cpuset of a control group into the affinity mask itself.

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
        # A group's name may be any bytes.
        groups = [line.split(":", 2) for line in own.read_text(errors="surrogateescape").splitlines()]
    except OSError:
        return None
    quotas: list[float] = []
    for group in groups:
        if len(group) != 3:
            continue
        _, controllers, name = group
        if not controllers:  # version 2, beside version 1 mounted on a folder of its own
            for mount in (root, root / "unified"):
                quotas += _quotas_on_the_way(mount, name, _quota_v2)
        elif "cpu" in controllers.split(","):
            for mount in (root / controllers, root / "cpu"):
                quotas += _quotas_on_the_way(mount, name, _quota_v1)
    return min(quotas, default=None)


def _quotas_on_the_way(mount: Path, group: str, quota_of: Callable[[Path], float | None]) -> Iterator[float]:
    # Inside a container the name may be of folders that only the host sees; the mount is then our own group.
    path = mount / group.strip("/")
    for folder in (path, *path.parents):
        quota = quota_of(folder)
        if quota is not None:
            yield quota
        if folder == mount:
            return


def _quota_v2(folder: Path) -> float | None:
    try:
        limit, period = (folder / "cpu.max").read_text().split()
        return None if limit == "max" else _ratio(int(limit), int(period))
    except (OSError, ValueError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        limit = int((folder / "cpu.cfs_quota_us").read_text())
        return _ratio(limit, int((folder / "cpu.cfs_period_us").read_text()))
    except (OSError, ValueError):
        return None


def _ratio(limit: int, period: int) -> float | None:
    """Returns the CPUs of a quota; none where a number is not positive, as -1 is for "no limit"."""
    return limit / period if limit > 0 and period > 0 else None
