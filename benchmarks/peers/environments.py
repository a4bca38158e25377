"""An environment for each peer under `.bench/`, made once for the versions in versions.toml and made again when they change."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from benchmarks.peers.failed import Failed

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".bench"
INSTALL_S = 600


def pins(queue: str) -> list[str]:
    return list(tomllib.loads((HERE / "versions.toml").read_text(encoding="utf-8"))[queue])


def version(queue: str) -> str:
    if queue == "culm":
        from importlib.metadata import version as installed

        return installed("culm")
    return pins(queue)[0].partition("==")[2]


def programs(queue: str) -> Path:
    """The folder with that queue's python and commands. Raises Failed when it cannot be installed."""
    if queue == "culm":
        return Path(sys.executable).parent
    folder = CACHE / "environments" / queue
    made = folder / "made-for"
    wanted = "\n".join([sys.version, *pins(queue)])
    if not made.exists() or made.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        print(f"installing {queue} ...", file=sys.stderr, flush=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *pins(queue)])
        made.write_text(wanted, encoding="utf-8")
    return folder / "bin"


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired as e:
        raise Failed(f"not installed after {INSTALL_S} s") from e
    if done.returncode:
        raise Failed("not installed", printed=done.stderr)
