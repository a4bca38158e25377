"""The examples run, as their first lines say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(*command: str, folder: Path) -> str:
    env = os.environ | {"CULM_URL": f"sqlite:///{folder / 'jobs.db'}", "PYTHONPATH": str(EXAMPLES)}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    assert run(str(EXAMPLES / name), folder=tmp_path)


def test_fork_join_counts_all_words(tmp_path: Path) -> None:
    assert "10 words, 40 letters" in run(str(EXAMPLES / "fork_join.py"), folder=tmp_path)


def test_the_mail_worker_runs_what_was_enqueued(tmp_path: Path) -> None:
    job_id = run("-m", "culm", "enqueue", "mail:app", "mail.send", '"busy@example.com"', 'subject="hi"', folder=tmp_path).strip()
    worker = [sys.executable, "-m", "culm", "worker", "mail:app"]
    env = os.environ | {"CULM_URL": f"sqlite:///{tmp_path / 'jobs.db'}", "PYTHONPATH": str(EXAMPLES)}
    with subprocess.Popen(worker, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL) as process:
        try:
            assert job_id in run("-m", "culm", "result", job_id, "--timeout", "10", folder=tmp_path)
        finally:
            process.terminate()
    assert process.returncode == 0
