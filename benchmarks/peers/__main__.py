"""`python -m benchmarks.peers [PEER ...] [--rounds 3] [--seconds 6] [--json FILE]`: culm beside other queues, on the same store.

In each round every peer is measured right after culm, on a redis-server that is started for this run and flushed before each
measurement (huey once more on SQLite; pgqueuer and Procrastinate on a private PostgreSQL, in a new database each time), culm on the
same. What fails is named in the table, and in exit code 1. Linux only: it finds left-over processes in /proc. Stop it with Ctrl-C or
SIGTERM: then it stops what it started.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import signal
import sys
import tempfile
from pathlib import Path

import msgspec
from msgspec import Struct

from benchmarks.peers.environments import version
from benchmarks.peers.failed import Failed
from benchmarks.peers.measure import STORES, Figures, Runs, measured
from benchmarks.peers.postgres_server import postgres_server
from benchmarks.peers.redis_server import redis_server
from benchmarks.peers.roster import CULM, PEERS, Peer
from benchmarks.peers.table import Failure, Pair, Row, failures, rows, text


class Report(Struct, frozen=True, kw_only=True):
    """The JSON of a run."""

    culm: str  # its version
    python: str
    rounds: int
    seconds: float
    rows: list[Row]
    failures: list[Failure]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(repr(p.name) for p in PEERS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6, help="about how long each workload of a peer takes")
    parser.add_argument("--json", type=Path, help="write the figures there instead of printing them")
    parser.add_argument("--culm-url", help="measure culm there instead of on the peer's store; {folder} is a fresh one")
    asked = parser.parse_args()
    if unknown := set(asked.peers) - {p.name for p in PEERS}:
        parser.error(f"no peer {', '.join(sorted(unknown))}")
    return asked


def one_round(peers: list[Peer], runs: Runs, *, culm_url: str | None) -> list[Pair]:
    pairs: list[Pair] = []
    for peer in peers:
        url = STORES[peer.store]
        ours = measured(CULM, runs, url=culm_url or url)
        pairs.append(Pair(measured(peer, runs, url=url), ours))
        print(f"  {peer.name:14s} {_seen(pairs[-1].peer)}; culm {_seen(ours)}", file=sys.stderr, flush=True)
    return pairs


def _seen(figures: Figures) -> str:
    return ", ".join(f"{name} {'failed' if isinstance(f, Failed) else f'{f:,.1f}'}" for name, f in figures.items())


def main() -> None:
    asked = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that every block is left, with what it started
    peers = [p for p in PEERS if not asked.peers or p.name in asked.peers]
    found: list[list[Pair]] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        port = stack.enter_context(redis_server(folder))
        on_postgres = any(p.store == "postgres" for p in peers)
        databases = stack.enter_context(postgres_server(folder)) if on_postgres else None
        for number in range(1, asked.rounds + 1):
            print(f"round {number} of {asked.rounds} ...", file=sys.stderr, flush=True)
            found.append(one_round(peers, Runs(port=port, databases=databases, seconds=asked.seconds), culm_url=asked.culm_url))
    by_peer = [(peer, [pairs[at] for pairs in found]) for at, peer in enumerate(peers)]
    report = Report(
        culm=version("culm"),
        python=platform.python_version(),
        rounds=asked.rounds,
        seconds=asked.seconds,
        rows=[row for peer, pairs in by_peer for row in rows(peer, pairs)],
        failures=[failure for peer, pairs in by_peer for failure in failures(peer, pairs)],
    )
    print(text(report.rows, report.failures))
    encoded = msgspec.json.encode(report).decode()
    if asked.json:
        asked.json.write_text(encoded + "\n", encoding="utf-8")
    else:
        print(encoded)
    sys.exit(1 if report.failures else 0)


if __name__ == "__main__":
    main()
