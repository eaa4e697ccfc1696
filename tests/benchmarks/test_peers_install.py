"""Setting peers up: nothing is done twice, and what cannot be done is said."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from secateur.bench.engines import ENGINES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """benchmarks/peers/install.py, putting environments into a temporary folder."""
    spec = importlib.util.spec_from_file_location(
        "peers_install", ROOT / "benchmarks" / "peers" / "install.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "peers_install", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PEERS_FOLDER", tmp_path)
    return module


def test_an_environment_is_made_once_and_again_when_its_versions_change(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []

    def call(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        python = tmp_path / "peer" / "bin" / "python"
        if "venv" in command:
            python.parent.mkdir(parents=True, exist_ok=True)
            if not python.exists():
                python.symlink_to(sys.executable)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(script.subprocess, "run", call)
    monkeypatch.setattr(script, "lacking", lambda python, modules: [])
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    peer = script.Peer(("peer==1.0",), ("numpy",), (own,), 7)
    script.install("peer", peer)
    assert "downloading about 7 MB" in capsys.readouterr().out
    assert [command[1:3] for command in commands] == [["-m", "venv"], ["-m", "pip"]]
    assert commands[1][-1] == "peer==1.0"
    script.install("peer", peer)
    assert capsys.readouterr().out.strip().endswith("is ready")
    assert len(commands) == 2
    script.install("peer", script.Peer(("peer==2.0",), ("numpy",), (own,), 7))
    assert len(commands) == 4


def test_what_cannot_be_set_up_is_said(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(script.PeerError, match=r"peer needs Python 1\.5, and none of them is on the PATH"):
        script.install("peer", script.Peer((), (), ("1.5",), 1))
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1))
    with pytest.raises(script.PeerError, match=r"peer is not set up: .*failed"):
        script.install("peer", script.Peer(("peer",), ("numpy",), (own,), 1))
    monkeypatch.setattr(sys, "argv", ["install.py", "tensorrt"])
    with pytest.raises(SystemExit):
        script.main()
    assert "there is no 'tensorrt'; known are openvino, deepsparse and models" in capsys.readouterr().err


def test_environments_and_engines_fit_together(script: ModuleType) -> None:
    for name, peer in script.PEERS.items():
        needed = {module for one in ENGINES.values() if one.environment == name for module in one.modules}
        assert needed == set(peer.modules)
    for _, engines in script.MODELS.values():
        assert set(engines) <= set(ENGINES)
