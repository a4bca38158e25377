"""One step of a history: what clients, workers, operators and time may do. How often each is drawn decides how much of a history counts."""

from __future__ import annotations

from typing import TypeAlias

from hypothesis import strategies as st
from msgspec import Struct

from culm.commit import Commit
from culm.outcome import Outcome
from culm.store import ClaimOrder
from tests.conformance import pools


class Say(Struct, frozen=True):
    client: str
    commits: list[Commit]


class SayAgain(Struct, frozen=True):
    pick: int  # which client's last batch


class SayOlder(Struct, frozen=True):
    pick: int
    commits: list[Commit]


class Claim(Struct, frozen=True):
    claimer: str
    queues: tuple[str, ...]
    limit: int
    for_ms: int
    order: ClaimOrder


class ClaimAgain(Struct, frozen=True):
    pick: int  # which claimer's last lease
    limit: int


class Ending(Struct, frozen=True):
    pick: int  # which of the leases that were ever granted, the newest first
    outcome: Outcome | None  # None: a checkpoint
    effects: Commit


class End(Struct, frozen=True):
    client: str
    endings: list[Ending]


class Extend(Struct, frozen=True):
    picks: list[int]
    for_ms: int


class Advance(Struct, frozen=True):
    ms: int


class Sweep(Struct, frozen=True):
    pass


class Pause(Struct, frozen=True):
    queue: str


class Resume(Struct, frozen=True):
    queue: str


class Replay(Struct, frozen=True):
    ids: list[str]


class Discard(Struct, frozen=True):
    ids: list[str]


class Purge(Struct, frozen=True):
    queue: str


Action: TypeAlias = (
    Say | SayAgain | SayOlder | Claim | ClaimAgain | End | Extend | Advance | Sweep | Pause | Resume | Replay | Discard | Purge
)

_client = st.sampled_from(pools.CLIENTS)
_queue = st.sampled_from(pools.QUEUES)
_lease_ms = st.sampled_from(pools.LEASES_MS)
_effects = st.lists(pools.effects, min_size=1, max_size=3)
_pick = st.integers(0, 5)
_dead: st.SearchStrategy[list[str]] = st.sampled_from([list(pools.IDS), list(pools.IDS[::2])])
_orders: st.SearchStrategy[ClaimOrder] = st.sampled_from(["priority", "age"])

_sends = st.builds(Say, _client, st.lists(pools.sends, min_size=1, max_size=2))
_says = st.builds(Say, _client, _effects)
_claims = st.builds(
    Claim, st.sampled_from(pools.CLAIMERS), st.sampled_from([pools.QUEUES, pools.QUEUES[:1]]), st.integers(1, 4), _lease_ms, _orders
)
_endings = st.builds(Ending, _pick, st.one_of(pools.endings, pools.endings, st.none()), pools.effects)
_ends = st.builds(End, _client, st.lists(_endings, min_size=1, max_size=3))
_advances = st.builds(Advance, st.sampled_from(pools.STEPS_MS))

_often: list[st.SearchStrategy[Action]] = [_claims, _ends, _advances, _claims, _ends, _advances, _sends, _says]
_seldom: list[st.SearchStrategy[Action]] = [
    st.builds(SayAgain, _pick),
    st.builds(SayOlder, _pick, _effects),
    st.builds(ClaimAgain, _pick, st.integers(1, 4)),
    st.builds(Extend, st.lists(_pick, max_size=4), _lease_ms),
    st.just(Sweep()),
    st.builds(Pause, _queue),
    st.builds(Resume, _queue),
    st.builds(Resume, st.just(pools.QUEUES[0])),
    st.builds(Resume, st.just(pools.QUEUES[1])),
    st.builds(Replay, _dead),
    st.builds(Replay, _dead),
    st.builds(Discard, _dead),
    st.builds(Purge, _queue),
]

actions: st.SearchStrategy[Action] = st.one_of([*_often, *_often, *_often, *_seldom])
