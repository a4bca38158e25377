"""Bytes in `jobs` that are no record, or not this job's: a dead letter with the reason, and the others run."""

from __future__ import annotations

import struct

import pytest

from culm import App, TaskLost
from culm.job import Job, encode_job
from culm.stores.redis.address import parse
from culm.stores.redis.records import TOLD, tail
from tests.servers import RedisServer

START = b"\x94\xcf" + struct.pack(">Q", 1) + b"\xb0" + b"0" * 12
GOOD = START + tail(Job(id="bad", task="well"), "")

HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "are not a job"),
    "truncated in the job": (GOOD[:-3], "are not a job"),
    "truncated in the head": (GOOD[:35], "are not a job"),
    "truncated at once": (GOOD[:1], "are not a job"),
    "no record": (b"\xff" * 64, "are not a job"),
    "another job": (START + tail(Job(id="good", task="well"), ""), "are those of another job"),
    "a job without its head": (encode_job(Job(id="bad", task="well")), "are not a job"),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("keep", [0, 60])
async def test_hostile_records_become_dead_letters_and_the_worker_lives(what: str, keep: int, server: RedisServer) -> None:
    data, reason = HOSTILE[what]
    url = server.url
    async with App(url) as app:

        @app.task(name="well", keep=keep)
        async def well() -> str:
            return "well"

        bad = await well.using(id="bad").enqueue()
        other = await well.using(keep=60).enqueue()
        assert server.ask("HSET", parse(url).prefix + "jobs", "bad", data) == b":0"
        async with app.worker(concurrency=4):
            assert await other.result(timeout=20) == "well"
            with pytest.raises(TaskLost, match=f"^job bad: was given up: the stored bytes of job 'bad' {reason}"):
                await bad.result(timeout=20)
            assert await (await well.using(keep=60).enqueue()).result(timeout=20) == "well"
        assert [(v.id, v.state) for v in await app.store.jobs(state="lost")] == [("bad", "lost")]
        assert await app.store.discard(["bad"]) == 1


def test_who_does_not_know_of_channels_reads_a_record_that_names_one() -> None:
    """By the lengths in its head, as processes of an earlier version do."""
    job = Job(id="a", task="töne", queue="laut", topic="tief")
    plain, naming = tail(job, ""), tail(job, TOLD + "somebody")
    size, longer = (int.from_bytes(record[5:7], "big") for record in (plain, naming))
    assert (plain[:5], plain[7 : 7 + size]) == (naming[:5], naming[7 : 7 + size])
    assert (plain[7 + size :], longer - size) == (naming[7 + longer :], len(TOLD + "somebody"))


@pytest.mark.parametrize("size", [b"x", b"-1", b"999", b"9" * 5_000])
async def test_a_head_that_lies_about_who_is_told_does_not_stop_a_claim(size: bytes, server: RedisServer) -> None:
    url = server.url
    told = START + tail(Job(id="bad", task="well"), TOLD + "nobody")
    head = told[30 : told.index(TOLD.encode())].replace(b" 0\n", b" " + size + b"\n") + (TOLD + "nobody").encode()
    async with App(url) as app:

        @app.task(name="well", keep=60)
        async def well() -> str:
            return "well"

        bad = await well.using(id="bad").enqueue()
        body = told[told.index(b"nobody") + 6 :]
        server.ask("HSET", parse(url).prefix + "jobs", "bad", told[:28] + struct.pack(">H", len(head)) + head + body)
        async with app.worker():
            assert await bad.result(timeout=20) == "well"


async def test_a_hostile_record_of_a_dead_worker_is_taken_over_and_buried(server: RedisServer) -> None:
    url = server.url
    async with App(url) as app:

        @app.task(name="well")
        async def well() -> str:
            return "well"

        bad = await well.using(id="bad").enqueue()
        assert len((await app.store.claim(["default"], lease="dead/1", limit=5, for_ms=50)).deliveries) == 1
        server.ask("HSET", parse(url).prefix + "jobs", "bad", b"\xc1")
        async with app.worker(poll=0.2):
            with pytest.raises(TaskLost, match="are not a job"):
                await bad.result(timeout=20)
