"""docs/redis.md lists every key that there is, with its type; and when all is over, next to nothing is left."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from culm.commit import Commit, Event, Held, Record, Trigger
from culm.job import Job
from culm.outcome import Failed, Fault, Retried, Succeeded
from culm.store import BlobKey, WorkerInfo
from culm.stores.redis.address import parse
from culm.stores.redis.store import RedisStore
from tests.on_redis.conftest import Opened
from tests.servers import RedisServer

Opener = Callable[[str], Opened]

BLOB = BlobKey("plain", "0" * 64)
DOCS = Path(__file__).parents[2] / "docs" / "redis.md"
STAY = {
    "n",
    "tid",
    "b:app",
    "b:w",
    "c:w",
    "w:w",
    "alive",
    "ledger",
    "held",
    "outcomes",
    "waits",
}  # counters, what goes a day later, nameless fields


def documented() -> dict[str, str]:
    """Pattern of a key -> its type, by the table."""
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    keys = [row for row in rows if len(row) == 5]
    types = {"string": "string", "sorted set": "zset", "set": "set", "hash": "hash", "list": "list"}
    return {_pattern(name): types[kind] for names, kind, *_ in keys for name in re.findall(r"`([^`]+)`", names)}


def _pattern(name: str) -> str:
    return "".join(".+" if part.startswith("<") else re.escape(part) for part in re.split(r"(<[^>]+>)", name))


def found(server: RedisServer, prefix: str) -> dict[str, str]:
    names = [key.decode() for key in server.read("KEYS", "*")]
    assert [n for n in names if not n.startswith(prefix)] == [], "all of a namespace is under one hash tag"
    return {n.removeprefix(prefix): server.ask("TYPE", n).decode().lstrip("+") for n in names}


class Scenario:
    """Something of everything, and then the end of it."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._number = 0

    async def do(self, *commits: Commit, client: str = "app") -> None:
        self._number += 1
        assert set(await self._store.commit(commits, batch=(client, self._number))) == {"applied"}

    async def begin(self) -> None:
        store = self._store
        await self.do(*(Commit(send=(Job(id=i, task="t", keep_ms=0),)) for i in ("plain", "fails", "again", "root", "twice")))
        await self.do(Commit(send=(Job(id="later", task="t", args=b"\xc5" + bytes(40_000), after_ms=3_600_000, queue="mail", keep_ms=0),)))
        await self.do(Commit(cancel=("never-sent",)))
        await self.do(Commit(send=tuple(Job(id=f"together{n}", task="t", queue="news", keep_ms=0) for n in range(20))))
        held = (await store.claim(["default"], lease="w/1", limit=5, for_ms=60_000)).deliveries
        fence = {d.job.id: Held(d.job.id, d.lease) for d in held}
        assert await store.extend([fence["plain"]], for_ms=90_000) == ["held"]
        effects = Commit(
            fence=fence["root"],
            send=(Job(id="root~join", task="t", after_ms=None, keep_ms=0), Job(id="root~a", task="t", topic="done", keep_ms=0)),
            emit=(Event("root", "paid", "k", b"\x01"),),
            triggers=(Trigger("root~join", "root", (("done", 1), ("packed", 1)), 2),),
            records=(Record("root", 1, b"\x02"),),
        )
        await self.do(effects)
        await self.do(
            Commit(fence=fence["fails"], outcome=Failed(Fault("E"))),
            Commit(fence=fence["twice"], outcome=Failed(Fault("E"))),
            Commit(fence=fence["again"], outcome=Retried(0, Fault("E"))),
            client="w",
        )
        assert await store.replay(["twice"]) == 1
        await store.outcome("root", for_ms=1)
        await store.pause("mail")
        await store.blobs.put(BLOB, b"large", look_ms=0)
        await store.hurry("w/1")
        await store.register(WorkerInfo("w", "h", 1, (), (), 1), for_ms=1)
        self._held = fence

    async def end(self) -> None:
        store = self._store
        await store.discard(["fails"])
        await store.blobs.drop([BLOB])
        await self.do(Commit(emit=(Event("root", "packed", "k", b"\x01"),)), Commit(cancel=("later",)))
        ends = [Commit(fence=self._held[i], outcome=Succeeded(), keep_ms=0) for i in ("plain", "root")]
        for number in range(2, 6):
            await self.do(*ends, client="w")
            claimed = (await store.claim(["default"], lease=f"w/{number}", limit=9, for_ms=60_000)).deliveries
            ends = [Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded(), keep_ms=0) for d in claimed]
            if not ends:
                break
        await store.resume("mail")
        assert await store.purge("news") == 20
        await store.workers()
        await store.wait(["default", "mail"], for_ms=20)
        await store.wait(["default", "mail"], for_ms=20)


async def test_every_key_is_documented_with_its_type_and_goes_when_it_is_over(server: RedisServer, opened: Opener) -> None:
    url = server.url + "&ledger=on"
    prefix, table = parse(url).prefix, documented()
    assert len(table) > 20
    async with opened(url) as store:
        scenario = Scenario(store)
        await scenario.begin()
        there = found(server, prefix)
        await scenario.end()
        there |= found(server, prefix)
        for name, kind in there.items():
            assert [t for pattern, t in table.items() if re.fullmatch(pattern, name)][:1] == [kind], f"docs/redis.md does not know {name}"
        unseen = [p for p in table if not any(re.fullmatch(p, name) for name in there)]
        assert [p for p in unseen if p != "expire"] == [], "the table names what there is not"
        for _ in range(50):  # it looks at ten random lanes
            await store.sweep()
        left = found(server, prefix)
        assert set(left) - STAY == {"tombs"}, "a tombstone stays for an hour"
        days = 86_400_000
        assert all(0 < int(server.ask("PTTL", prefix + key).lstrip(b":")) <= days for key in ("b:app", "b:w", "c:w"))
