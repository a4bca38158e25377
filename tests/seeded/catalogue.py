"""The seeded bugs by name. Each makes a memory store that has it, on the clock that it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from culm.clock import Clock
from culm.stores.memory import MemoryStore
from culm.stores.tables import Tables
from tests.seeded import fences, joins, lives

Maker: TypeAlias = Callable[[Clock], MemoryStore]


def _maker(tables: type[Tables]) -> Maker:
    def make(clock: Clock) -> MemoryStore:
        return MemoryStore(clock, tables=tables)

    return make


SEEDED: dict[str, Maker] = {
    "no fence": _maker(fences.NoFence),
    "quick end without a fence": _maker(fences.QuickWithoutFence),
    "quick end forgets its tree": _maker(fences.QuickForgetsItsTree),
    "finished may be committed again": _maker(fences.FinishedMayBeCommittedAgain),
    "late attempt overwrites a result": _maker(fences.LateAttemptOverwrites),
    "no resend memory": _maker(fences.NoResendMemory),
    "dedupe that expires early": _maker(fences.DedupeExpiresEarly),
    "effects of a refused commit": _maker(fences.EffectsOfARefusedCommit),
    "child enqueued outside the commit": _maker(fences.ChildrenOutsideTheCommit),
    "stale heartbeat steals a lease": _maker(fences.HeartbeatStealsTheLease),
    "stale heartbeat moves the newer lease": _maker(fences.HeartbeatOfAStaleLease),
    "claim twice": _maker(fences.ClaimTwice),
    "expired lease not claimable": _maker(fences.ExpiredLeaseNotClaimable),
    "crash not counted": _maker(fences.CrashNotCounted),
    "fence falls back": _maker(fences.FenceFallsBack),
    "attempts not given back": _maker(fences.AttemptsNotGivenBack),
    "released keeps no due": _maker(fences.ReleasedKeepsNoDue),
    "lease ends early": _maker(fences.LeaseEndsEarly),
    "again ignored": _maker(joins.AgainIgnored),
    "release ignores leased": _maker(joins.ReleaseIgnoresLeased),
    "join off by one": _maker(joins.JoinOffByOne),
    "count off by one": _maker(joins.CountOffByOne),
    "event before trigger lost": _maker(joins.EventBeforeTriggerLost),
    "event counted twice": _maker(joins.EventCountedTwice),
    "event overwrites": _maker(joins.EventOverwrites),
    "trigger fires twice": _maker(joins.TriggerFiresTwice),
    "ends unheard": _maker(joins.EndsUnheard),
    "early timer": _maker(lives.EarlyTimer),
    "instant ignored": _maker(lives.InstantIgnored),
    "tombstone ignored": _maker(lives.TombstoneIgnored),
    "cancel ignored": _maker(lives.CancelIgnored),
    "cancel beats success": _maker(lives.CancelBeatsSuccess),
    "conflict ignored": _maker(lives.ConflictIgnored),
    "swept early": _maker(lives.SweptEarly),
    "dead letters swept": _maker(lives.DeadLettersSwept),
    "scope forgotten": _maker(lives.ScopeForgotten),
    "newest first": _maker(lives.NewestFirst),
    "replay keeps attempts": _maker(lives.ReplayKeepsAttempts),
    "pause ignored": _maker(lives.PauseIgnored),
}
