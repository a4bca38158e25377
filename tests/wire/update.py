"""Writes the golden files anew: `python -m tests.wire.update NAME ...`, never run by a test.

A golden file that changes means that old and new workers no longer understand each other: append a field instead, or raise
`culm.job.WIRE`. New samples are what this is for; test_golden.py pins the sum of all files.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from tests.wire.samples import SAMPLES

GOLDEN = Path(__file__).parent / "golden"


def main(names: list[str]) -> int:
    if not names or not SAMPLES.keys() >= set(names):
        sys.stderr.write(f"name the samples to write: {', '.join(SAMPLES)}\n")
        return 64
    GOLDEN.mkdir(exist_ok=True)
    for name in names:
        (GOLDEN / f"{name}.hex").write_text(msgspec.msgpack.encode(SAMPLES[name]).hex(" ") + "\n", encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
