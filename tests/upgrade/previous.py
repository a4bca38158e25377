"""The release before this one, as a wheel in an environment of its own.

There is no published one yet: it is an earlier commit of this repository, whose stores are laid out as today's. Once there are releases,
this is the one before.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMIT = "ede08d2ab4c3ab8ba9f0a8d2aacdae0afd20cbf2"


class Missing(Exception):
    """It cannot be had here."""


def install(folder: Path) -> Path:
    """The Python that has it. Raises Missing: a clone without history, or no network to build with."""
    source, dist, venv = folder / "source", folder / "dist", folder / "venv"
    source.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        raise Missing(f"this clone has no commit {COMMIT}")
    subprocess.run(["tar", "-x", "-C", source], input=archive.stdout, check=True)
    built = _pip("wheel", "--no-deps", "--wheel-dir", str(dist), str(source))
    if built.returncode:
        raise Missing(f"no wheel can be built here: {built.stderr.decode()[-500:]}")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    (wheel,) = dist.glob("*.whl")
    installed = _pip("--python", str(python), "install", "--no-deps", str(wheel))
    assert installed.returncode == 0, installed.stderr.decode()
    (packages,) = venv.glob("lib/python*/site-packages")
    # What it depends on is shared. A folder that is named there is searched last, its own .pth files are not read: today's culm stays out.
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


def _pip(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *words], capture_output=True, check=False, timeout=120
    )
