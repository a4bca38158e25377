"""`python -m benchmarks [--rounds 5] [--json FILE]`: culm beside its raw ceilings, round by round, so that both meet the same machine.

A ratio is taken within a round; the table shows the median of the ratios, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

HUEY_N = 10_000


def one(workload: str, url: str = "memory://") -> dict[str, float]:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.one", workload], env={**os.environ, "CULM_URL": url}, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise SystemExit(f"{workload} on {url} failed:\n{result.stderr[-2000:]}")
    return dict(json.loads(result.stdout.splitlines()[-1]))


def per_s(workload: str, url: str = "memory://") -> float:
    return one(workload, url)["per_s"]


def drain(url: str, task: str, workers: int, n: int = 100_000) -> float:
    """Jobs per second, from the common start to the last commit, with the jobs queued before."""
    env = {**os.environ, "CULM_URL": url}
    queue = f"import asyncio; from benchmarks.tasks import app, {task} as t; asyncio.run(app.enqueue_many(t.bind(i) for i in range({n})))"
    subprocess.run([sys.executable, "-c", queue], env=env, check=True, stdout=subprocess.DEVNULL)
    command = [sys.executable, "-m", "benchmarks.one", "drain"]
    children = [subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(workers)]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()  # ready
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    ends = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
    done = sum(e["done"] for e in ends)
    if done < n:
        raise SystemExit(f"the drain ended after {done:,} of {n:,} jobs")
    return float(done / (max(e["ended"] for e in ends) - min(e["started"] for e in ends)))


def huey(folder: Path) -> float:
    """Jobs per second of huey's consumer, from its first run to its last."""
    stamps = folder / "stamps"
    env = {**os.environ, "HUEY_DB": str(folder / "huey.db"), "HUEY_STAMPS": str(stamps), "HUEY_N": str(HUEY_N)}
    subprocess.run([sys.executable, "-m", "benchmarks.huey_peer"], env=env, check=True)
    options = ["-k", "thread", "-w", "8", "-d", "0.005", "-q", "-n"]
    consumer = [str(Path(sys.executable).parent / "huey_consumer"), "benchmarks.huey_peer.huey", *options]
    child = subprocess.Popen(consumer, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and (not stamps.exists() or stamps.read_bytes().count(b"\n") < HUEY_N):
            time.sleep(0.1)
    finally:
        child.kill()
        child.wait()
    times = [float(line) for line in stamps.read_text(encoding="ascii").split()]
    if len(times) < HUEY_N:
        raise SystemExit(f"huey ran {len(times)} of {HUEY_N} tasks in two minutes")
    return len(times) / (max(times) - min(times))


def first_job(folder: Path) -> dict[str, float]:
    """Seconds from exec of `culm worker` to its first job's end, beside the import of what it depends on; idle memory of both."""
    url = f"sqlite:///{folder}/start.db"
    env = {**os.environ, "CULM_URL": url}
    imports = "import typer, msgspec, uvloop, asyncio, sqlite3"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", imports], check=True)
    import_s = time.perf_counter() - started
    rss = f"{imports}\nprint(int(open('/proc/self/statm').read().split()[1]) * 4)"
    import_kib = int(subprocess.run([sys.executable, "-c", rss], check=True, capture_output=True, text=True).stdout)
    send = "import asyncio; from benchmarks.tasks import kept; print(asyncio.run(kept.enqueue(1)).id)"
    job_id = subprocess.run([sys.executable, "-c", send], env=env, check=True, capture_output=True, text=True).stdout.strip()
    import sqlite3

    started = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "culm", "worker", "benchmarks.tasks:app"], env=env, stderr=subprocess.DEVNULL)
    try:
        connection = sqlite3.connect(folder / "start.db")
        while connection.execute("SELECT ended FROM jobs WHERE id = ?", (job_id,)).fetchone() == (None,):
            time.sleep(0.001)
        took = time.perf_counter() - started
        connection.close()
        time.sleep(0.5)
        kib = int(Path(f"/proc/{child.pid}/statm").read_text(encoding="ascii").split()[1]) * 4
    finally:
        child.terminate()
        child.wait()
    return {"first_job_s": took, "imports_s": import_s, "idle_mib": kib / 1024, "imports_mib": import_kib / 1024}


Row = tuple[str, str, float, float]  # what, beside what, figure, ceiling

SENDS = (
    ("enqueue_one", (("transactions of 1", "insert_1"), ("the same, awaited", "awaited_1"))),
    ("callers_100", (("transactions of 100", "insert_100"),)),
    ("enqueue_many", (("transactions of 100", "insert_100"),)),
)
DRAINS = (("drain, keep=0", "gone", 1), ("drain, kept", "kept", 1), ("drain, 2 workers", "gone", 2))


def beside(what: str, ceilings: Sequence[tuple[str, str]], figure: Callable[[], float]) -> list[Row]:
    """The figure beside raw ceilings that are taken right before it and right after it: this machine's pace changes within seconds."""
    before = [per_s(workload) for _, workload in ceilings]
    found = figure()
    after = [per_s(workload) for _, workload in ceilings]
    return [(what, name, found, (b + a) / 2) for (name, _), b, a in zip(ceilings, before, after, strict=True)]


def table(rounds: Sequence[Sequence[Row]]) -> list[dict[str, object]]:
    """Print what the rounds found, row by row; also as data."""
    data: list[dict[str, object]] = []
    print(f"{'culm':34s} {'beside':28s} {'culm':>10s} {'beside':>10s}  ratio (least-greatest)")
    for cells in zip(*rounds, strict=True):
        ratios = sorted(figure / ceiling for _, _, figure, ceiling in cells)
        figure, ceiling = statistics.median(c[2] for c in cells), statistics.median(c[3] for c in cells)
        data.append({"what": cells[0][0], "beside": cells[0][1], "per_s": figure, "beside_per_s": ceiling, "ratios": ratios})
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        print(f"{cells[0][0]:34s} {cells[0][1]:28s} {figure:10,.0f} {ceiling:10,.0f}  {spread}")
    return data


def one_round(folder: Path) -> list[Row]:
    rows: list[Row] = []
    for name in ("drain", "enqueue_one", "callers_100", "enqueue_many"):
        rows += beside(f"memory: {name}", [("bare loop", "bare_loop")], partial(per_s, name))
    for sync, durability in (("FULL", "full"), ("NORMAL", "relaxed")):
        for name, ceilings in SENDS:
            url = f"sqlite:///{folder}/{sync}-{name}.db?durability={durability}"
            named = [(said, f"{workload}_{sync}") for said, workload in ceilings]
            rows += beside(f"SQLite {sync}: {name}", named, partial(per_s, name, url))
        for n, (name, task, workers) in enumerate(DRAINS):
            url = f"sqlite:///{folder}/{sync}-{n}.db?durability={durability}"
            raw = [("claim and delete by 100", f"take_100_{sync}")]
            rows += beside(f"SQLite {sync}: {name}", raw, partial(drain, url, task, workers))
    drained = next(figure for what, _, figure, _ in rows if what == "SQLite FULL: drain, keep=0")
    rows.append(("SQLite FULL: drain, keep=0", "huey on SQLite", drained, huey(folder)))
    rows.append(("memory: drain", "SQLite FULL: drain", rows[0][2], drained))
    return rows


def single_figures(folder: Path) -> dict[str, float]:
    found = {f"memory round trip {k}": v for k, v in one("round_trip").items()}
    found |= {f"SQLite FULL round trip {k}": v for k, v in one("round_trip", f"sqlite:///{folder}/rt.db").items()}
    found |= {f"memory in flight {k}": v for k, v in one("in_flight").items()}
    return found | first_job(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rounds: list[list[Row]] = []
    singles: list[dict[str, float]] = []
    for n in range(asked.rounds):
        print(f"round {n + 1} of {asked.rounds} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=os.environ.get("CULM_BENCH_DIR")) as folder:
            rounds.append(one_round(Path(folder)))
            singles.append(single_figures(Path(folder)))
    found = table(rounds)
    figures = {k: statistics.median(s[k] for s in singles) for k in singles[0]}
    print()
    for name, value in figures.items():
        print(f"{name:34s} {value:12,.3f}")
    result = json.dumps({"rounds": asked.rounds, "table": found, "figures": figures})
    if asked.json:
        asked.json.write_text(result + "\n", encoding="utf-8")
    else:
        print("\n" + result)


if __name__ == "__main__":
    main()
