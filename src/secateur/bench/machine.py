"""What a figure was measured on: processor, instruction sets, cores and versions; never a host's name."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from secateur.runtime.threads import usable_threads

__all__ = ["describe_machine", "engine_cpu_info", "installed_versions", "resident_memory_mb"]

_REPORTED_PACKAGES = (
    "secateur",
    "numpy",
    "tokenizers",
    "safetensors",
    "torch",
    "transformers",
    "onnxruntime",
)


def describe_machine() -> dict[str, Any]:
    """Describes this machine for a table or a JSON file.

    Returns:
        `cpu`, `isas` (best first; empty if the engine is not built), `cores`, `threads` (that this process
        may use), `memory_gb`, `system`, `python` and `versions`.
    """
    info = engine_cpu_info() or {}
    return {
        "cpu": info.get("brand") or _cpu_name(),
        "isas": list(info.get("isas", [])),
        "cores": os.cpu_count() or 1,
        "threads": usable_threads()[0],
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": installed_versions(_REPORTED_PACKAGES),
    }


def engine_cpu_info() -> dict[str, Any] | None:
    """Asks the engine what it sees of the processor.

    Returns:
        The engine's answer, or None where the engine is not built.
    """
    try:
        from secateur import _engine
    except ImportError:
        return None
    return dict(_engine.cpu_info())


def installed_versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    """Looks versions up in the installed metadata, without importing anything.

    Args:
        packages: Distribution names.

    Returns:
        Name to version, None where it is not installed.
    """
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def resident_memory_mb(*, peak: bool = False) -> float | None:
    """Reads how much memory of this process is resident.

    Args:
        peak: The most there has been, not what there is now.

    Returns:
        Megabytes (10^6 bytes), or None where the system does not tell.
    """
    field = "VmHWM:" if peak else "VmRSS:"
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith(field):
                    return round(int(line.split()[1]) * 1024 / 1e6, 1)
    except OSError:
        pass
    return None


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as cpuinfo:
            for line in cpuinfo:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None
