"""Results come back as the return annotation says; one that cannot be written down fails its job, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from culm import TaskFailed
from tests.tasks.harness import Bench, run


@dataclass
class Receipt:
    number: int
    at: datetime


class Refused(msgspec.Struct, tag=True):
    why: str


class Taken(msgspec.Struct, tag=True):
    number: int


NOW = datetime(2024, 1, 1, tzinfo=UTC)


def test_a_result_is_what_the_return_annotation_says() -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task
        async def buy() -> list[Receipt]:
            return [Receipt(1, NOW)]

        @bench.app.task
        def take(well: bool) -> Taken | Refused:
            return Taken(3) if well else Refused("no")

        @bench.app.task
        async def nothing() -> None:
            return None

        async with bench.working():
            assert await (await buy.enqueue()).result() == [Receipt(1, NOW)]
            assert await (await take.enqueue(True)).result() == Taken(3)
            assert await (await take.enqueue(well=False)).result() == Refused("no")
            assert (await (await nothing.enqueue()).result()) is None  # type: ignore[func-returns-value]

    run(main())


def test_a_result_without_annotation_comes_back_as_plain_data() -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task
        async def buy():  # type: ignore[no-untyped-def]
            return Receipt(1, NOW)

        async with bench.working():
            assert await (await buy.enqueue()).result() == {"number": 1, "at": NOW}

    run(main())


def test_a_result_of_another_type_than_promised_is_an_error_where_it_is_read() -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task(name="count")
        async def count() -> int:
            return "many"  # type: ignore[return-value]

        async with bench.working():
            job = await count.enqueue()
            with pytest.raises(TypeError, match=r"^the result stored for count does not fit its return type: Expected `int`, got `str`"):
                await job.result()
            assert await job.status() == "succeeded"

    run(main())


UNWRITABLE: dict[str, Any] = {
    "an object": object(),
    "a function": print,
    "half a surrogate": "\udc80",
    "a huge number": 1 << 80,
    "an iterator": iter([1]),
}


@pytest.mark.parametrize("what", UNWRITABLE)
def test_a_result_that_cannot_be_written_down_fails_its_job_and_the_worker_lives(what: str) -> None:
    async def main() -> None:
        bench, ran = Bench(), []

        @bench.app.task(name="make", retry=5)
        async def make() -> Any:
            ran.append(1)
            return UNWRITABLE[what]

        @bench.app.task
        async def well() -> str:
            return "well"

        async with bench.working():
            with pytest.raises(TaskFailed, match=r"TypeError: the result of make cannot be encoded: .*; return builtins") as caught:
                await (await make.enqueue()).result()
            assert caught.value.fault.type == "TypeError"
            assert await (await well.enqueue()).result() == "well"
        assert ran == [1], "another attempt would make the same"

    run(main())


def test_a_result_that_contains_itself_fails_its_job() -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task
        async def circle() -> list[Any]:
            items: list[Any] = []
            items.append(items)
            return items

        async with bench.working():
            with pytest.raises(TaskFailed, match="cannot be encoded"):
                await (await circle.enqueue()).result()

    run(main())


def test_a_result_above_a_mebibyte_fails_its_job_and_the_worker_lives() -> None:
    async def main() -> None:
        bench = Bench()

        @bench.app.task(name="fill")
        async def fill(size: int) -> bytes:
            return bytes(size)

        async with bench.working():
            with pytest.raises(
                TaskFailed, match=r"ValueError: the result of fill takes 1,048,581 bytes; 1,048,576 are allowed: return a ref"
            ):
                await (await fill.enqueue(1_048_576)).result()
            assert len(await (await fill.enqueue(1_048_000)).result()) == 1_048_000

    run(main())
