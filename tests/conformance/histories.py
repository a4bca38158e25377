"""A random history of clients, workers that stall and resend, and operators, lived by two stores at once."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

import msgspec
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from culm.commit import Commit, Committed, Held
from tests.conformance import actions, pools
from tests.conformance.actions import Action, Claim, ClaimAgain, Ending, SayAgain, SayOlder
from tests.conformance.stores import Subject
from tests.conformance.twins import Twins


class History(RuleBasedStateMachine):
    subject: Subject
    saw: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="culm-history-"))
        self.twins = Twins(type(self).subject, self.path)
        self.held: list[Held] = []  # every lease that was ever granted, the newest first
        self.numbers = 0
        self.last: dict[str, tuple[int, Sequence[Commit], list[Committed]]] = {}  # client -> its last batch, and the answers
        self.granted: dict[str, str] = {}  # claimer -> the lease under which it was last granted something
        self.commit("app", [pools.OPENING])

    def teardown(self) -> None:
        self.twins.close()
        type(self).saw.update(self.twins.saw)
        shutil.rmtree(self.path)

    # One rule and not one for each action: Hypothesis would leave whole rules out of a history, and most would come to nothing.
    @rule(action=actions.actions)
    def step(self, action: Action) -> None:
        twins = self.twins
        match action:
            case actions.Say(who, commits):
                self.commit(who, commits)
            case actions.End(who, endings):
                if self.held:
                    self.commit(who, [self.ending(e) for e in endings])
            case SayAgain() | SayOlder():
                if self.last:
                    self.say_again(action)
            case Claim():
                self.claim(action)
            case ClaimAgain(pick, limit):
                if self.granted:
                    claimer = sorted(self.granted)[pick % len(self.granted)]
                    twins.claim_again(pools.QUEUES, lease=self.granted[claimer], limit=limit, for_ms=100)
            case actions.Extend(picks, for_ms):
                twins.extend([self.held[p % len(self.held)] for p in picks if self.held], for_ms=for_ms)
            case actions.Advance(ms):
                twins.clock.advance(ms=ms)
            case actions.Sweep():
                twins.sweep()
            case actions.Pause() | actions.Resume() | actions.Replay() | actions.Discard() | actions.Purge():
                self.operate(action)
            case _:
                assert_never(action)

    def operate(self, action: actions.Pause | actions.Resume | actions.Replay | actions.Discard | actions.Purge) -> None:
        twins = self.twins
        match action:
            case actions.Pause(queue):
                twins.ask(lambda store: store.pause(queue))
            case actions.Resume(queue):
                twins.ask(lambda store: store.resume(queue))
            case actions.Replay(ids):
                twins.saw["replayed"] += twins.ask(lambda store: store.replay(ids))
            case actions.Discard(ids):
                twins.saw["discarded"] += twins.ask(lambda store: store.discard(ids))
            case actions.Purge(queue):
                twins.saw["purged"] += twins.ask(lambda store: store.purge(queue))
            case _:
                assert_never(action)

    def commit(self, who: str, commits: Sequence[Commit]) -> None:
        for batch in [commits] if self.twins.ordered else [[one] for c in commits for one in whole(c)]:
            self.numbers += 1
            self.last[who] = (self.numbers, batch, self.twins.commit(batch, (who, self.numbers)))

    def ending(self, ending: Ending) -> Commit:
        return msgspec.structs.replace(ending.effects, fence=self.held[ending.pick % len(self.held)], outcome=ending.outcome)

    def say_again(self, action: SayAgain | SayOlder) -> None:
        who = sorted(self.last)[action.pick % len(self.last)]
        number, commits, answers = self.last[who]
        if isinstance(action, SayAgain):
            assert self.twins.commit(commits, (who, number)) == answers
            self.twins.saw["resent"] += 1
        elif self.twins.ordered:
            assert self.twins.commit(action.commits, (who, number - 1)) == ["lease_lost"] * len(action.commits)

    def claim(self, asked: Claim) -> None:
        self.numbers += 1
        lease = f"{asked.claimer}/{self.numbers}"
        deliveries = self.twins.claim(asked.queues, lease=lease, limit=asked.limit, for_ms=asked.for_ms, order=asked.order)
        if deliveries:
            self.granted[asked.claimer] = lease
            self.held[:0] = [Held(d.job.id, d.lease) for d in deliveries]

    @invariant()
    def every_table_is_equal(self) -> None:
        self.twins.compare()


def whole(c: Commit) -> list[Commit]:
    """What is applied as one wherever it lies: a commit that only sends is so for each root."""
    if c.fence is not None or not c.send or c.emit or c.triggers or c.records or c.cancel:
        return [c]
    roots = dict.fromkeys(job.scope for job in c.send)
    return [msgspec.structs.replace(c, send=tuple(job for job in c.send if job.scope == root)) for root in roots]


def histories_of(subject: Subject) -> type[History]:
    """The machine whose second store is that."""
    return type("HistoryOf", (History,), {"subject": subject, "saw": Counter()})
