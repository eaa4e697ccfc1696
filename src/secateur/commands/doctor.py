"""`secateur doctor`: the processor, the threads, the versions, and what is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from secateur.bench.machine import describe_machine, engine_cpu_info, installed_versions
from secateur.checkpoint import FORMAT_VERSIONS
from secateur.commands.console import output, print_table, show_json
from secateur.runtime.threads import usable_threads

__all__ = ["run"]

# Extra -> the distributions whose absence it mends.
_EXTRAS = {
    "train": ("torch", "transformers", "accelerate", "datasets", "pyyaml"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "report": ("plotly",),
}
_FAST_ISAS = {"avx512vnni", "avxvnni", "neondot"}


def run(json_file: Path | None) -> None:
    """Examines this machine and prints what it found.

    Args:
        json_file: Where to write the same as JSON.
    """
    found = examine()
    if show_json(json_file, found):
        return
    machine, engine = found["machine"], found["engine"]
    versions = {name: version for name, version in machine["versions"].items() if version}
    rows = [
        ("CPU", machine["cpu"]),
        ("instruction sets", ", ".join(machine["isas"]) or "unknown: the engine is not built"),
        ("chosen", engine["isa"] or "none"),
        ("checkpoints", found["checkpoints"]),
        ("cores", str(machine["cores"])),
        ("threads by default", f"{engine['threads']} ({found['threads_because']})"),
        ("memory", f"{machine['memory_gb']} GB" if machine["memory_gb"] else "unknown"),
        ("system", f"{machine['system']}, Python {machine['python']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("C++ compiler", found["compiler"] or "none"),
    ]
    print_table("This machine", ("what", "found"), rows)
    console = output()
    for problem in found["problems"]:
        console.print(f"- {problem}", markup=False, highlight=False)
    if not found["problems"]:
        console.print("Nothing is missing.")


def examine() -> dict[str, Any]:
    """Gathers what the command prints.

    Returns:
        `machine` (see `describe_machine`), `engine` (`isa`, `threads`), `checkpoints` (what can be read),
        `threads_because`, `compiler`, `problems` (sentences that end with what to do).
    """
    machine = describe_machine()
    info = engine_cpu_info()
    isa, problems = _chosen_isa(info)
    threads, because = usable_threads()
    if info is not None and isa is not None and isa not in _FAST_ISAS:
        problems.append(
            f"The engine runs on {isa}: this CPU, or SECATEUR_ISA, has no int8 dot product, so int8 is "
            "slower than it could be; float32 is not affected."
        )
    for extra, packages in _EXTRAS.items():
        missing = [name for name, version in installed_versions(packages).items() if version is None]
        if missing:
            purpose = {
                "train": "to compress and to evaluate on PyTorch",
                "onnx": "to compare with ONNX Runtime",
                "report": "to draw plots",
            }
            problems.append(
                f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed, needed only "
                f"{purpose[extra]}: pip install 'secateur[{extra}]'."
            )
    return {
        "machine": machine,
        "engine": {"isa": isa, "threads": threads},
        "checkpoints": f"int8, bfloat16, float32 and mixed; format {' and '.join(map(str, FORMAT_VERSIONS))}",
        "threads_because": because,
        "compiler": _compiler(),
        "problems": problems,
    }


def _chosen_isa(info: dict[str, Any] | None) -> tuple[str | None, list[str]]:
    if info is None:
        return None, [
            "The engine is not built, so nothing can run: install the wheel of this platform "
            "(pip install secateur), or in a clone run `make build`, which needs a C++20 compiler."
        ]
    from secateur import _engine

    try:
        return str(_engine.resolve_isa()), []
    except ValueError as error:
        return None, [f"{str(error).rstrip('.')}: unset SECATEUR_ISA, or set it to one of the sets above."]


def _compiler() -> str | None:
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        if shutil.which(name):
            return name
    return None
