"""The simulated cluster: the real worker, gatherer, heart and codec, several nodes of them, on one virtual-time loop over one store.

`simulate(seed)` plays what `cluster_plan.draw(seed)` says, heals, waits until all is quiet, and lets `cluster_check` judge the
history. A violation names the invariant, and the line that plays the same run again: `python -m culm.testing.cluster SEED`.
A node is a process: it has an App, a way to the store (`Faulty`) and a wall clock of its own, and can be killed or stalled.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from msgspec import Struct

from culm.app import App
from culm.clock import Ids
from culm.decide import UNKNOWN_PAUSE_MS
from culm.errors import IdConflict, PartlySent, StoreError
from culm.handle import Handle
from culm.store import Ended
from culm.stores.quick_tables import QuickTables
from culm.stores.tables import Tables
from culm.testing.cluster_check import Violation, check
from culm.testing.cluster_history import History, Note
from culm.testing.cluster_plan import BEAT_MS, CLIENTS, GRACE_MS, HEAL_MS, LEASE_MS, POLL_MS, Cancel, Plan, Send, Strike, Watch, draw
from culm.testing.cluster_tasks import HISTORY, equip
from culm.testing.cluster_truth import Truth, Way
from culm.testing.faults import CALM, DriftingClock, VirtualClock
from culm.testing.faults import Plan as Faults
from culm.testing.virtual_loop import VirtualLoop, run
from culm.worker.worker import Worker

QUIET_MS = 8_000  # lease, largest pause and slowest call, and a margin; then nothing may be left
SETTLE_S = 4.0  # twice the slowest call there and back
OUT = Faults(before=0.5, after=1.0)


class Node(Struct):
    name: str
    app: App
    way: Way
    worker: Worker | None = None
    knows_rare: bool = True
    leaving: bool = False


class Played(Struct):
    """A run that broke nothing."""

    plan: Plan
    notes: list[Note]
    tally: Counter[str]  # what happened in it, and how often, so that a set of runs can be refused as vacuous


class Cluster:
    def __init__(self, loop: VirtualLoop, plan: Plan, tables: type[Tables], partitions: int) -> None:
        self.plan = plan
        self.clock = VirtualClock(loop)
        self.history = History(self.clock)
        self.truth = Truth(self.clock, self.history, tables, partitions=partitions, now=loop.time)
        self.tally: Counter[str] = Counter()
        self._loop = loop
        self._clients = [self._node(f"c{i}", lies=True) for i in range(CLIENTS)]
        self._workers: list[Node] = []
        self._asked: list[tuple[str, asyncio.Task[None]]] = []  # what living nodes must bring to an end
        self._stalled_until = 0
        self._healed = False
        self._has_rare = any(s.task == "rare" for specs in plan.specs.values() for s in specs)

    async def play(self) -> Played:
        HISTORY.set(self.history)
        for _ in range(self.plan.workers):
            await self._start_worker()
        for send in self.plan.sends:
            self._at(send.at_ms, self._clients[send.client], self._send(self._clients[send.client], send))
        for cancel in self.plan.cancels:
            self._at(cancel.at_ms, self._clients[cancel.client], self._cancel(self._clients[cancel.client], cancel))
        for watch in self.plan.watches:
            self._at(watch.at_ms, self._clients[watch.client], self._watch(self._clients[watch.client], watch))
        strikes = [self._loop.create_task(self._strike(s)) for s in self.plan.strikes]
        await asyncio.sleep(HEAL_MS / 1000)
        await self._heal()
        await asyncio.gather(*strikes)
        await self._quiet()
        await self._stop_all()
        self._tally()
        check(self.plan, self.history.notes, self.truth.tables, left=self._left())
        return Played(self.plan, self.history.notes, self.tally)

    # -- nodes ---------------------------------------------------------------------------------------------------------------

    def _node(self, name: str, *, knows_rare: bool = True, lies: bool = False, crash: Any = None) -> Node:
        seed = self.plan.seed
        faults = self.plan.faults if crash is None else Faults(crash=crash)
        way = self.truth.way(f"{seed}/{name}", faults, patient=seed % 2 == 1)
        clock = DriftingClock(self.clock, Random(f"{seed}/{name}/clock"), every_ms=1_500)
        rng = Random(f"{seed}/{name}/app")
        app = App(store=way.store, clock=clock, rng=rng, ids=Ids(clock, rng))
        equip(app, knows_rare=knows_rare, lies=lies)
        return Node(name, app, way, knows_rare=knows_rare)

    async def _start_worker(self) -> None:
        i = len(self._workers)
        crash = self.plan.crashes[i] if i < len(self.plan.crashes) and not self._healed else None
        node = self._node(f"w{i}", knows_rare=self._healed or i % 2 == 0, crash=crash)
        self._workers.append(node)
        if self._healed:
            node.way.calm()
        with self._loop.node(node.name):
            node.worker = node.app.worker(
                concurrency=self.plan.concurrency,
                lease=LEASE_MS / 1000,
                heartbeat=BEAT_MS / 1000,
                poll=POLL_MS / 1000,
                grace=GRACE_MS / 1000,
                heart="loop",
            )
            await node.worker.start()
        self.history.note("up", more=(node.name, node.worker.name))

    def _living(self) -> list[Node]:
        return [n for n in self._workers if n.name not in self._loop.killed and not n.leaving]

    def _at(self, ms: int, node: Node, work: Coroutine[Any, Any, None]) -> None:
        async def later() -> None:
            try:
                await asyncio.sleep(ms / 1000)
                await work
            finally:
                work.close()

        with self._loop.node(node.name):
            self._asked.append((node.name, self._loop.create_task(later())))

    # -- clients -------------------------------------------------------------------------------------------------------------

    async def _send(self, client: Node, send: Send) -> None:
        note = self.history.note
        for spec in send.jobs:
            note("send", spec.id, more=spec.task)
        ids = [s.id for s in send.jobs]
        bounds = [client.app.tasks[s.task].using(id=s.id, **s.options).bind(*s.args) for s in send.jobs]
        try:
            if len(bounds) == 1:
                spec = send.jobs[0]
                await client.app.tasks[spec.task].using(id=spec.id, **spec.options).enqueue(*spec.args)
            else:
                await client.app.enqueue_many(bounds)
        except (IdConflict, PartlySent) as e:
            refused = isinstance(e, IdConflict) or isinstance(e.__cause__, IdConflict)
            for spec in send.jobs:
                note("refused" if refused else "unknown", spec.id, more=len(ids) > 1)
        except StoreError:
            for job_id in ids:
                note("unknown", job_id)
        else:
            for spec in send.jobs:
                note("acked", spec.id, more=spec.task)

    async def _cancel(self, client: Node, cancel: Cancel) -> None:
        await Handle(client.app, cancel.job_id, None).cancel()
        self.history.note("cancelled", cancel.job_id)

    async def _watch(self, client: Node, watch: Watch) -> None:
        """Poll until it has ended, and once more: a read never leaves a terminal state."""
        while not isinstance(found := await client.app.store.outcome(watch.job_id, for_ms=300), Ended):
            if self._healed and not self.truth.knows(watch.job_id):
                return  # it was never sent
            await asyncio.sleep(0.05)
        self.history.note("read", watch.job_id, more=found)

    # -- the nemesis ---------------------------------------------------------------------------------------------------------

    async def _strike(self, strike: Strike) -> None:
        await asyncio.sleep(strike.at_ms / 1000)
        among = self._clients if strike.what == "kill client" else self._living()
        among = [n for n in among if n.name not in self._loop.killed]
        if not among:
            return
        node = among[strike.whom % len(among)]
        self.history.note(strike.what, more=node.name)
        self.tally[strike.what] += 1
        match strike.what:
            case "kill" | "kill client":
                if node.worker is not None and node.worker.info().running:
                    self.tally["kill in flight"] += 1
                self._loop.kill(node.name)
            case "stall":
                self._stalled_until = max(self._stalled_until, self.clock.now_ms() + strike.for_ms)
                self._loop.stall(node.name, for_s=strike.for_ms / 1000)
            case "stop":
                self._leave(node)
            case "outage":
                node.way.suffer(OUT, at=strike.whom)
                await asyncio.sleep(strike.for_ms / 1000)
                node.way.suffer(CALM if self._healed else self.plan.faults)
        if strike.what in ("kill", "stop"):
            await asyncio.sleep(strike.for_ms / 1000)
            await self._start_worker()

    def _leave(self, node: Node) -> None:
        node.leaving = True
        with self._loop.node(node.name):
            self._asked.append((node.name, self._loop.create_task(self._stop(node))))

    async def _stop(self, node: Node) -> None:
        """A graceful stop; what the worker held is claimable at once, unless the store did not hear of it."""
        assert node.worker is not None  # for the type checker
        before, known = node.way.bitten, {h.job_id for h in node.worker.held()}
        newest = node.worker._claimer._claims  # noqa: SLF001  # what that claim grants is not known to the worker yet
        # Leased, and not held: a commit that was given up, unanswered, before the stop began. Only the lease's end mends that.
        given_up = {i for i, number in self._leased_by(node.worker) if i not in known and number != newest}
        await node.worker.stop()
        bitten = node.way.bitten - before
        held = [i for i, _ in self._leased_by(node.worker) if i not in given_up]
        self.history.note("stopped", more=(node.name, held, dict(bitten)))

    def _leased_by(self, worker: Worker) -> list[tuple[str, int]]:
        """The jobs that the store has leased to it, each with the number of its claim."""
        parts = [(i, lease.split("/")) for i, lease in self.truth.leased()]  # a partition that is asked twice knows it by another name
        return [(i, int(lease[-1])) for i, lease in parts if lease[0] == worker.name]

    # -- the end -------------------------------------------------------------------------------------------------------------

    async def _heal(self) -> None:
        self._healed = True
        self.history.note("heal")
        for node in (*self._workers, *self._clients):
            node.way.calm()
        for node in [n for n in self._living() if not n.knows_rare and self._has_rare]:
            self._leave(node)  # else it might meet the rare job again and again, and leave it to the others for five seconds
        if not any(n.knows_rare for n in self._living()):
            await self._start_worker()

    async def _quiet(self) -> None:
        """Return when nothing is left to do; or when the time for it is over, and let the check tell what is left."""
        over = self.clock.now_ms() + QUIET_MS + (UNKNOWN_PAUSE_MS if self._has_rare else 0)
        while self.clock.now_ms() < over and self._is_busy():
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.1)

    def _is_busy(self) -> bool:
        return (
            self.clock.now_ms() <= self._stalled_until
            or any(not row.finished for row in self.truth.rows())
            or bool(self.truth.crossing())
            or any(not task.done() and node not in self._loop.killed for node, task in self._asked)
            or any(n.worker is not None and (n.worker.held() or n.worker.info().running) for n in self._living())
        )

    async def _stop_all(self) -> None:
        for node in self._living():
            self._leave(node)
        waiting = [task for node, task in self._asked if node not in self._loop.killed]
        await asyncio.wait(waiting, timeout=60)
        await asyncio.sleep(SETTLE_S)  # for what was cancelled, or is still asked in vain, to end

    def _left(self) -> list[str]:
        """Tasks of living nodes that should be over."""
        return [f"{t.get_name()} of {t.node} at {t.get_coro()}" for t in self._loop.pending() if t.node]

    def _tally(self) -> None:
        for note in self.history.notes:
            self.tally[note.what] += 1
            if note.what == "commit":
                self.tally[type(note.more).__name__] += 1
            elif note.what == "claim" and note.more.expiries:
                self.tally["expired lease"] += 1
        for node in (*self._workers, *self._clients):
            self.tally += node.way.bitten
            self.history.note("bitten", more=(node.name, dict(node.way.bitten)))
            if node.worker is not None and node.way.bitten["crash.before"] + node.way.bitten["crash.after"]:
                self.tally["crash"] += 1


@contextmanager
def _in_silence() -> Iterator[None]:
    """What the workers complain of is what the plan did to them."""
    log = logging.getLogger("culm.worker")
    logs = [logging.getLogger(name) for name in ("culm.worker", "culm.partitions")]
    were = [log.disabled for log in logs]
    for log in logs:
        log.disabled = True
    try:
        yield
    finally:
        for log, was in zip(logs, were, strict=True):
            log.disabled = was


def simulate(seed: int, *, tables: type[Tables] = QuickTables, partitions: int = 1) -> Played:
    """Play the run of that seed. Raises Violation; what else is raised is a bug, too. Both tell how to play it again.

    Args:
        tables: the store's logic: a test of this simulation hands in one with a bug.
        partitions: of which the store is made.
    """
    return _play(seed, tables, partitions, [])


def _play(seed: int, tables: type[Tables], partitions: int, made: list[Cluster]) -> Played:
    plan = draw(seed)

    def main(loop: VirtualLoop) -> Coroutine[Any, Any, Played]:
        made.append(Cluster(loop, plan, tables, partitions))
        return made[0].play()

    try:
        with _in_silence():
            return run(main, seed=seed)
    except Exception as e:
        e.add_note(f"replay: python -m culm.testing.cluster {seed}{f' {partitions}' if partitions > 1 else ''}")
        raise


PER_RUN: dict[str, float] = {
    "fenced": 0.05,  # stale commits that were refused
    "expired lease": 0.2,  # jobs that were claimed from a worker that was silent
    "resent": 0.3,  # batches whose reply was lost
    "reclaim": 0.2,  # deliveries of claims whose reply was lost
    "joined": 0.3,
    "kill in flight": 0.03,
    "crash": 0.05,  # at a call to the store
    "stall": 0.1,
    "Released": 0.01,
    "Retried": 0.3,
    "Expired": 0.03,
    "Cancelled": 0.01,  # while it ran
    "refused": 0.05,
}


def vacuous(tally: Counter[str], runs: int) -> list[str]:
    """What happened too rarely in so many runs; they prove nothing then. Meant for a hundred runs or more."""
    return [f"{what}: {tally[what]} in {runs} runs" for what, least in PER_RUN.items() if tally[what] < least * runs]


def main(argv: list[str]) -> int:
    """Print the history of the run of a seed."""
    if not 1 <= len(argv) <= 2 or not all(word.isdecimal() and len(word) < 19 for word in argv) or argv[1:] == ["0"]:
        print("usage: python -m culm.testing.cluster SEED [PARTITIONS]", file=sys.stderr)  # noqa: T201  # a command's output
        return 64
    made: list[Cluster] = []
    verdict = "nothing was violated"
    try:
        _play(int(argv[0]), Tables, int(argv[1]) if argv[1:] else 1, made)
    except Exception as e:  # noqa: BLE001  # whatever it is, the history comes first
        verdict = str(e) if isinstance(e, Violation) else "".join(traceback.format_exception(e))
    for note in made[0].history.notes:
        print(note)  # noqa: T201  # a command's output
    print(verdict)  # noqa: T201  # a command's output
    return 0 if verdict == "nothing was violated" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
