"""What runs in a process of its own is sealed, stored apart, typed and wrapped like everything else."""

from __future__ import annotations

from decimal import Decimal

from culm import when
from culm.envelope import is_wrapped
from culm.stores.memory import MemoryStore
from tests.payloads.apart import Line, app, echo, far, reads, wrapped
from tests.tasks.harness import run, until


@app.task
async def root() -> str:
    await far.enqueue(Line(name="x", price=Decimal(1)), bytes(5_000))
    return when("said", run=reads.bind()).id


def test_a_task_in_a_process_of_its_own_opens_what_was_sealed_and_stored_apart_and_seals_what_it_sends() -> None:
    async def scenario() -> None:
        async with app:
            store = app.store
            assert isinstance(store, MemoryStore)
            async with app.worker(children=1):
                reader = await (await root.enqueue()).result()
                ids = {row.job.task: row.job.id for row in store.tables.rows.values()}
                result = await app.job(ids[far.name], far).result()
                assert result == Line(name="x" * 5_000, price=Decimal(2))
                await until(lambda: any(row.job.task == echo.name for row in store.tables.rows.values()))
                sent = next(row.job for row in store.tables.rows.values() if row.job.task == echo.name)
                assert is_wrapped(sent.args)
                assert len(sent.args) < 100
                assert await app.job(sent.id, echo).result() == 5_000
                assert await app.job(reader, reads).result() == Line(name="x", price=Decimal(1))

    run(scenario())
    assert wrapped == ["Succeeded"] * 4
