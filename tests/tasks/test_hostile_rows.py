"""Bytes in a row that are no job, or not this one: a dead letter with the reason, and the worker lives."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from culm import App, TaskLost
from culm.job import WIRE, Job, encode_job
from tests.tasks.harness import run

GOOD = encode_job(Job(id="good", task="well"))

HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "are not a job"),
    "truncated": (GOOD[:-5], "are not a job"),
    "truncated in its length": (GOOD[:1], "are not a job"),
    "trailing bytes": (GOOD + b"\x00", "are not a job"),
    "a map": (msgspec.msgpack.encode({"id": "bad"}), "are not a job"),
    "a number": (b"\x05", "are not a job"),
    "text that is no UTF-8": (b"\x93\x01\xa2\xff\xfe\xa1a", "are not a job"),
    "a length that lies": (b"\xdd\xff\xff\xff\xff", "are not a job"),
    "depth": (b"\x91" * 100_000, "are not a job"),
    "wrong types": (msgspec.msgpack.encode([1, 5, 6]), "are not a job"),
    "another job": (GOOD, "are those of another job"),
    "a version below": (msgspec.msgpack.encode(["one", "bad", "well"]), "are not a job"),
    "a pickle": (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.", "are not a job"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_bytes_become_a_dead_letter_and_the_worker_lives(what: str, tmp_path: Path) -> None:
    data, reason = HOSTILE[what]

    async def main() -> None:
        async with App(f"sqlite:///{tmp_path / 'jobs.db'}?durability=relaxed") as app:

            @app.task(name="well")
            async def well() -> str:
                return "well"

            bad = await well.using(id="bad").enqueue()
            other = await well.enqueue()
            overwrite(tmp_path / "jobs.db", data)
            async with app.worker(concurrency=4):
                assert await other.result() == "well"
                with pytest.raises(TaskLost, match=f"^job bad: was given up: the stored bytes of job 'bad' {reason}"):
                    await bad.result()
                assert await (await well.enqueue()).result() == "well"
            assert [(v.id, v.state) for v in await app.store.jobs(state="lost")] == [("bad", "lost")]
            assert await app.store.discard(["bad"]) == 1

    run(main())


def overwrite(path: Path, data: bytes) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE jobs SET job = ? WHERE id = 'bad'", (data,))
        connection.commit()


def test_bytes_of_a_newer_version_are_left_to_newer_workers(tmp_path: Path) -> None:
    async def main() -> None:
        async with App(f"sqlite:///{tmp_path / 'jobs.db'}?durability=relaxed") as app:

            @app.task(name="well")
            async def well() -> str:
                return "well"

            newer = await well.using(id="bad").enqueue()
            overwrite(tmp_path / "jobs.db", msgspec.msgpack.encode([WIRE + 1, {"all": "different"}]))
            async with app.worker(concurrency=4):
                assert await (await well.enqueue()).result() == "well"
            assert await newer.status() == "open"

    run(main())


def test_hostile_arguments_fail_the_job_and_the_worker_lives(tmp_path: Path) -> None:
    async def main() -> None:
        async with App(f"sqlite:///{tmp_path / 'jobs.db'}?durability=relaxed") as app:

            @app.task(name="well")
            async def well(n: int) -> int:
                return n

            for n, args in enumerate((b"", b"\xc1", b"\x91" * 50_000, msgspec.msgpack.encode(["x"]), msgspec.msgpack.encode([]))):
                job = await well.using(id=f"bad{n}").enqueue(1)
                with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
                    connection.execute("UPDATE jobs SET job = ? WHERE id = ?", (encode_job(Job(id=job.id, task="well", args=args)), job.id))
                    connection.commit()
            async with app.worker(concurrency=4):
                for n in range(5):
                    with pytest.raises(Exception, match="failed with TypeError: the arguments stored for well do not fit its signature"):
                        await app.job(f"bad{n}", well).result()
                assert await (await well.enqueue(3)).result() == 3

    run(main())
