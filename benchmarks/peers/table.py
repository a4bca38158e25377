"""What a run found, as values for JSON and as tables to read.

A ratio is taken within a round, between culm and the peer that was measured right after it: how many times better culm's figure is
(more a second, or fewer milliseconds). The tables show medians, with the least and the greatest.
"""

from __future__ import annotations

import statistics
from typing import assert_never

from msgspec import Struct

from benchmarks.peers.environments import version
from benchmarks.peers.failed import Failed
from benchmarks.peers.measure import WORKLOADS, Figures, Workload
from benchmarks.peers.roster import Mode, Peer

TITLES: dict[Workload, str] = {
    "drain": "Drain of no-ops, one worker, tasks/s",
    "enqueue": "Enqueue one by one, /s",
    "callers": "100 concurrent callers awaiting results, calls/s",
    "round_trip": "Round trip, one caller, idle worker, p50 in ms",
}

HEAD = ("| peer | version | mode | its figure | culm's | times better (least-greatest) |", "|---|---|---|---|---|---|")


class Pair(Struct, frozen=True):
    """One round: a peer, and culm beside it."""

    peer: Figures
    culm: Figures


class Row(Struct, frozen=True, kw_only=True):
    """A workload of a peer over all rounds. None: it failed in that round."""

    workload: Workload
    peer: str
    version: str
    mode: Mode
    how: str
    store: str
    figures: list[float | None]
    culm: list[float | None]
    ratios: list[float]  # of the rounds where both have a figure


class Failure(Struct, frozen=True):
    who: str
    workload: Workload
    round: int
    error: str


def rows(peer: Peer, pairs: list[Pair]) -> list[Row]:
    found: list[Row] = []
    for workload in WORKLOADS:
        both = [(_figure(pair.peer, workload), _figure(pair.culm, workload)) for pair in pairs]
        found.append(
            Row(
                workload=workload,
                peer=peer.name,
                version=version(peer.queue),
                mode=peer.mode,
                how=peer.how,
                store=peer.store,
                figures=[p for p, _ in both],
                culm=[c for _, c in both],
                ratios=[_ratio(workload, p, c) for p, c in both if p is not None and c is not None],
            )
        )
    return found


def failures(peer: Peer, pairs: list[Pair]) -> list[Failure]:
    return [
        Failure(who, workload, number, str(figure))
        for number, pair in enumerate(pairs, start=1)
        for who, figures in ((peer.name, pair.peer), (f"culm beside {peer.name}", pair.culm))
        for workload, figure in figures.items()
        if isinstance(figure, Failed)
    ]


def text(rows: list[Row], failures: list[Failure]) -> str:
    lines: list[str] = []
    for workload in WORKLOADS:
        lines += [f"### {TITLES[workload]}", "", *HEAD]
        lines += [_line(row) for row in rows if row.workload == workload]
        lines.append("")
    if failures:
        lines += ["### Failures", "", *(f"- {f.who}, {f.workload}, round {f.round}: {f.error}" for f in failures), ""]
    return "\n".join(lines)


def _line(row: Row) -> str:
    cells = (row.peer, row.version, f"{row.mode}: {row.how}", _cell(row.figures), _cell(row.culm), _spread(row.ratios))
    return f"| {' | '.join(cells)} |"


def _cell(figures: list[float | None]) -> str:
    known = [f for f in figures if f is not None]
    failed = f"{len(figures) - len(known)} of {len(figures)} failed, see below" if len(known) < len(figures) else ""
    return "; ".join(part for part in (_spread(known), failed) if part)


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return _short(values[0])
    return f"{_short(statistics.median(values))} ({_short(min(values))}-{_short(max(values))})"


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _figure(figures: Figures, workload: Workload) -> float | None:
    figure = figures[workload]
    return None if isinstance(figure, Failed) else figure


def _ratio(workload: Workload, peer: float, culm: float) -> float:
    match workload:
        case "drain" | "enqueue" | "callers":
            return culm / peer
        case "round_trip":
            return peer / culm
        case _:
            assert_never(workload)
