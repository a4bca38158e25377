"""Orders: carried out until the supervisor says that no more come, also by a process that holds nothing any more."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest

from culm.commit import Commit, Committed, Held
from culm.errors import StoreUnavailable
from culm.job import Job
from culm.outcome import Released
from culm.store import LeaseState
from culm.stores.memory import MemoryStore
from culm.worker.orders import DRAINED, Obedience, Order, encode_order


class Away(MemoryStore):
    away = False

    async def extend(self, held: Sequence[Held], *, for_ms: int) -> list[LeaseState]:
        if self.away:
            raise StoreUnavailable("it is away")
        return await super().extend(held, for_ms=for_ms)


class Obedient:
    def __init__(self) -> None:
        self.store = Away()
        self.taken = 0
        self.sent: list[Commit] = []
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.it = Obedience(self.store, None, ["default"], self._submit, self._took, lease_ms=60_000)  # type: ignore[arg-type]  # nothing runs

    def _took(self) -> None:
        self.taken += 1

    async def _submit(self, commit: Commit) -> Committed:
        self.sent.append(commit)
        return (await self.store.commit([commit], batch=("w", len(self.sent))))[0]

    async def held(self, *ids: str) -> list[Held]:
        assert await self.store.commit([Commit(send=(Job(id=i, task="t"),)) for i in ids], batch=("app", 1)) == ["applied"] * len(ids)
        claimed = await self.store.claim(["default"], lease="dead/1", limit=len(ids), for_ms=1_000)
        return [Held(d.job.id, d.lease) for d in claimed.deliveries]


def test_a_process_that_holds_nothing_any_more_carries_out_orders_until_no_more_come() -> None:
    async def main() -> None:
        obedient, loop = Obedient(), asyncio.get_running_loop()
        held = await obedient.held("a", "b")
        obeying = asyncio.ensure_future(obedient.it.obey(obedient.theirs.detach()))
        obedient.it.drained()
        assert await loop.sock_recv(obedient.ours, 16) == DRAINED
        assert not obeying.done()
        await loop.sock_sendall(obedient.ours, encode_order(Order(give_back=held)))
        obedient.ours.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(obeying, 10)
        assert obedient.taken == 1
        assert [(c.fence, c.outcome) for c in obedient.sent] == [(h, Released()) for h in held]
        obedient.ours.close()

    asyncio.run(main())


def test_what_cannot_be_carried_out_before_the_end_is_left_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("culm.worker.orders.LAST_TRIES_S", 0.2)
    monkeypatch.setattr("culm.worker.orders.PAUSE_S", 0.05)

    async def main() -> None:
        obedient, loop = Obedient(), asyncio.get_running_loop()
        held = await obedient.held("a")
        obedient.store.away = True
        obeying = asyncio.ensure_future(obedient.it.obey(obedient.theirs.detach()))
        await loop.sock_sendall(obedient.ours, encode_order(Order(hold=held)))
        obedient.it.drained()
        await asyncio.wait_for(obeying, 10)  # although nobody has said that no more come
        assert obedient.taken == 0
        obedient.ours.close()

    asyncio.run(main())


def test_leases_are_held_for_who_waits() -> None:
    async def main() -> None:
        obedient, loop = Obedient(), asyncio.get_running_loop()
        held = await obedient.held("a")
        obeying = asyncio.ensure_future(obedient.it.obey(obedient.theirs.detach()))
        await loop.sock_sendall(obedient.ours, encode_order(Order(hold=held)))
        obedient.ours.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(obeying, 10)
        row = obedient.store.tables.leased["a"]
        assert row.due is not None
        assert row.due - obedient.store.tables.now() > 30_000
        obedient.ours.close()

    asyncio.run(main())
