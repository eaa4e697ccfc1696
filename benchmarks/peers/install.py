"""Sets up the engines that Secateur is compared with, and builds the models that they run.

    python benchmarks/peers/install.py                  all of it: environments, then models
    python benchmarks/peers/install.py openvino         one environment only

Each peer gets an environment of its own under .peers/, with the versions that our figures were made with.
`secateur benchmark --engine` finds them there. What is done is kept: start it again after an interruption.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur.bench.engines import ENGINES, why_missing
from secateur.bench.environments import PEERS_FOLDER, lacking
from secateur.bench.forms import build_forms
from secateur.bench.synthetic import SHAPES, write_synthetic
from secateur.commands.console import hush_libraries
from secateur.errors import SecateurError

CALIBRATION_TOKENS = 128


@dataclass(frozen=True)
class Peer:
    """One environment.

    Attributes:
        requirements: What pip installs.
        modules: What must be importable afterwards.
        pythons: Versions of Python that it runs on, newest first.
        download_mb: About how much pip loads, in megabytes.
    """

    requirements: tuple[str, ...]
    modules: tuple[str, ...]
    pythons: tuple[str, ...]
    download_mb: int


PEERS = {
    "openvino": Peer(
        ("openvino==2026.4.1", "nncf==3.4.0", "numpy==2.4.6"),
        ("openvino", "nncf"),
        ("3.13", "3.12", "3.11"),
        150,
    ),
    # 1.9.0 is an end-of-life stub that refuses to build.
    "deepsparse": Peer(
        ("deepsparse==1.8.0", "numpy==1.26.4", "onnx==1.14.1", "setuptools<81"),
        ("deepsparse",),
        ("3.11", "3.10"),
        150,
    ),
}
# Folder under .peers/models -> sparsity of the checkpoint, and the engines that get their models there.
MODELS: dict[str, tuple[float, tuple[str, ...]]] = {
    "block4-80": (0.8, tuple(ENGINES)),
    "block4-90": (0.9, ("secateur", "deepsparse")),
}


def main() -> int:
    """Installs and builds what is asked for.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", help=f"{', '.join(PEERS)}, models; default: all of these")
    parser.add_argument("--shape", default="bert-base", choices=SHAPES, help="of the models")
    options = parser.parse_args()
    wanted = options.what or [*PEERS, "models"]
    unknown = [name for name in wanted if name not in (*PEERS, "models")]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}; known are {', '.join(PEERS)} and models")
    try:
        for name in wanted:
            if name == "models":
                build_models(options.shape)
            else:
                install(name, PEERS[name])
    except (SecateurError, PeerError) as error:
        print(f"install: {error}", file=sys.stderr)
        return 2
    return 0


class PeerError(Exception):
    """An environment cannot be set up; the message says what to do."""


def install(name: str, peer: Peer) -> None:
    """Makes one environment, unless it is there as it should be.

    Args:
        name: Its folder under .peers.
        peer: What goes into it.

    Raises:
        PeerError: No Python fits, or pip fails.
    """
    folder = PEERS_FOLDER / name
    python, note = folder / "bin" / "python", folder / "requirements.txt"
    text = "\n".join(peer.requirements) + "\n"
    if note.is_file() and note.read_text(encoding="utf-8") == text and not lacking(str(python), peer.modules):
        print(f"{name}: {folder} is ready")
        return
    base = find_python(peer.pythons)
    if base is None:
        raise PeerError(
            f"{name} needs Python {' or '.join(peer.pythons)}, and none of them is on the PATH: install one."
        )
    print(f"{name}: downloading about {peer.download_mb} MB from your package index into {folder}:")
    print(f"  {' '.join(peer.requirements)}", flush=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    for command in ([base, "-m", "venv", str(folder)], [*pip, *peer.requirements]):
        if subprocess.run(command, check=False).returncode:
            raise PeerError(f"{name} is not set up: {' '.join(command)} failed; mend it and start again.")
    missing = lacking(str(python), peer.modules)
    if missing:
        raise PeerError(
            f"{name} is installed, but lacks {', '.join(missing)}: remove {folder} and start again."
        )
    note.write_text(text, encoding="utf-8")
    print(f"{name}: {folder} is ready")


def find_python(versions: Sequence[str]) -> str | None:
    """Looks for an interpreter of one of the versions: this one first, then those on the PATH.

    Args:
        versions: Such as "3.11", best first.

    Returns:
        Its path, or None.
    """
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if own in versions:
        return str(getattr(sys, "_base_executable", sys.executable))
    return next((path for version in versions if (path := shutil.which(f"python{version}"))), None)


def build_models(shape: str) -> None:
    """Builds the models of every engine that is installed, with random weights.

    Args:
        shape: A key of `SHAPES`.

    Raises:
        SecateurError: A model cannot be built.
    """
    hush_libraries()
    for kind, (sparsity, engines) in MODELS.items():
        folder = PEERS_FOLDER / "models" / f"{shape}-{kind}"
        here = [name for name in engines if why_missing(name) is None]
        print(f"{shape}, {kind}: models for {', '.join(here)} in {folder}", flush=True)
        with tempfile.TemporaryDirectory() as temporary:
            checkpoint = write_synthetic(Path(temporary) / "model", shape, sparsity=sparsity)
            build_forms(here, checkpoint, None, CALIBRATION_TOKENS, folder)
        for name in engines:
            reason = why_missing(name)
            if reason:
                print(f"  not built: {reason}")


if __name__ == "__main__":
    sys.exit(main())
