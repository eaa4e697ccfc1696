"""Runs the C++ kernel test: every kernel this CPU can run, against its family's reference."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "engine" / "kernels"


def find_executable() -> Path:
    """`make test` builds it in build/kernels; SECATEUR_KERNEL_TEST names another build's."""
    return Path(os.environ.get("SECATEUR_KERNEL_TEST", ROOT / "build" / "kernels" / "secateur_kernel_test"))


def listed_kernels() -> list[str]:
    """Names of all kernels in all kernels.inc files."""
    lists = sorted(KERNELS.glob("*/kernels.inc"))
    return [name for path in lists for name in re.findall(r"^KERNEL\(\w+, (\w+)", path.read_text(), re.M)]


@pytest.fixture(scope="module")
def verdicts() -> dict[str, str]:
    """Kernel name -> the line the executable prints about it."""
    executable = find_executable()
    if not executable.is_file():
        pytest.skip(f"{executable} is not built: run `make test`, or set SECATEUR_KERNEL_TEST")
    done = subprocess.run([executable], capture_output=True, text=True, check=False)
    found = re.findall(r"^((?:ok|skip|FAILED) (\w+).*)$", done.stdout, re.M)
    assert found, f"exit status {done.returncode}: {done.stdout}{done.stderr}"
    failed = any(line.startswith("FAILED") for line, _ in found)
    assert (done.returncode != 0) == failed, done.stdout
    return {name: line for line, name in found}


def test_the_lists_name_every_family() -> None:
    families = {path.parent.name for path in KERNELS.glob("*/reference.cc")}
    assert families == {path.parent.name for path in KERNELS.glob("*/kernels.inc")}
    assert len(listed_kernels()) == len(set(listed_kernels())) >= len(families)


@pytest.mark.parametrize("name", listed_kernels())
def test_kernel(name: str, verdicts: dict[str, str]) -> None:
    line = verdicts.get(name, "the executable does not know it: it is older than kernels.inc")
    if line.startswith("skip"):
        pytest.skip(line)
    assert line == f"ok {name}"
