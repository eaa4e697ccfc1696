"""Interpreters of other environments: peers whose libraries cannot be installed beside ours.

DeepSparse needs a NumPy older than 2; others are merely large. Their processes run our modules without our
package or its dependencies being installed there: only what `secateur.bench.worker` itself imports, which is
numpy and the candidate's library.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from secateur.errors import DataError

__all__ = ["PEERS_FOLDER", "command", "find_interpreter", "lacking"]

PEERS_FOLDER = Path(
    ".peers"
)  # where benchmarks/peers/install.py makes environments, under the current folder

# Makes `secateur` a package that lies in the given folder, without putting on the path what lies beside it:
# beside an installed package that would be all of our environment.
_BOOTSTRAP = """
import importlib, sys, types
package = types.ModuleType("secateur")
package.__path__ = [sys.argv.pop(1)]
sys.modules["secateur"] = package
importlib.import_module(sys.argv.pop(1)).main()
"""
_LACKING = """
import importlib.util, sys
print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))
"""


def command(python: str | None, module: str, *arguments: str) -> list[str]:
    """Makes the command that runs `main` of one of our modules.

    Args:
        python: An interpreter of another environment; None for this one.
        module: The module, for example "secateur.bench.worker".
        *arguments: What stands in its `sys.argv[1:]`.

    Returns:
        The command.
    """
    if python is None:
        return [sys.executable, "-m", module, *arguments]
    # -E: a PYTHONPATH that is set for this environment would mix the two.
    return [python, "-E", "-c", _BOOTSTRAP, str(Path(__file__).parents[1]), module, *arguments]


def find_interpreter(environment: str, modules: Sequence[str]) -> str | None:
    """Chooses where a peer runs.

    Args:
        environment: Its name, for example "deepsparse".
        modules: What has to be importable there.

    Returns:
        The interpreter that the variable SECATEUR_<ENVIRONMENT>_PYTHON names, or None, for this environment,
        where that has the modules, or the one that benchmarks/peers/install.py makes, or else None.

    Raises:
        DataError: The variable names no file that can be run.
    """
    variable = f"SECATEUR_{environment.upper()}_PYTHON"
    named = os.environ.get(variable)
    if named:
        if not os.access(named, os.X_OK) or Path(named).is_dir():
            raise DataError(f"{variable} is {named}, which cannot be run: name a Python interpreter.")
        return named
    made = PEERS_FOLDER / environment / "bin" / "python"
    if lacking(None, modules) and made.is_file():
        return str(made.absolute())
    return None


def lacking(python: str | None, modules: Sequence[str]) -> list[str]:
    """Looks for modules without importing them.

    Args:
        python: An interpreter; None for this environment.
        modules: Names of top-level modules.

    Returns:
        Those that are not there; all of them where the interpreter fails.
    """
    if python is None:
        return [name for name in modules if find_spec(name) is None]
    try:
        done = subprocess.run(
            [python, "-E", "-c", _LACKING, *modules], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return list(modules)
    return list(modules) if done.returncode else done.stdout.split()
