"""A flow's records: (flow, seq) is unique, and what is remembered is never changed."""

from __future__ import annotations

from culm.commit import Commit, Record
from culm.job import Job
from culm.testing.conformance.bench import Bench, expect
from culm.testing.conformance.suite import case


@case
async def a_step_is_recorded_once(bench: Bench) -> None:  # I12
    await bench.send(Job(id="f", task="t"))
    expect(await bench.commit(Commit(records=(Record("f", 0, b"\x01"),))), "applied")
    expect(await bench.commit(Commit(records=(Record("f", 0, b"\x02"),))), "conflict", "another value")
    expect(await bench.store.records("f"), [Record("f", 0, b"\x01")])


@case
async def the_same_record_again_is_no_conflict(bench: Bench) -> None:  # I12
    await bench.send(Job(id="f", task="t"))
    twice = (Record("f", 0, b"\x01"), Record("f", 0, b"\x01"))
    expect(await bench.commit(Commit(records=twice)), "applied", "twice in one commit")
    expect(await bench.commit(Commit(records=twice[:1])), "applied", "in another")
    expect(await bench.store.records("f"), [Record("f", 0, b"\x01")])


@case
async def flows_of_one_scope_have_numbers_of_their_own(bench: Bench) -> None:
    await bench.send(Job(id="f", task="t"), Job(id="f~g", task="t"))
    await bench.do(records=[Record("f", 0, b"\x01"), Record("f~g", 0, b"\x02")])
    expect(await bench.store.records("f"), [Record("f", 0, b"\x01")])
    expect(await bench.store.records("f~g"), [Record("f~g", 0, b"\x02")])


@case
async def records_are_read_by_number_and_by_page(bench: Bench) -> None:
    await bench.send(Job(id="f", task="t"))
    for seq in (10, 2, 0, 1, 11):
        await bench.do(records=[Record("f", seq, bytes([seq]))])
    expect([r.seq for r in await bench.store.records("f")], [0, 1, 2, 10, 11])
    expect([r.seq for r in await bench.store.records("f", limit=2)], [0, 1])
    expect([r.seq for r in await bench.store.records("f", after=1, limit=2)], [2, 10])
    expect(await bench.store.records("f", after=11), [])
    expect(await bench.store.records("unknown"), [])


@case
async def a_records_bytes_come_back_as_they_were(bench: Bench) -> None:
    value = bytes(range(256))
    await bench.send(Job(id="f", task="t"))
    await bench.do(records=[Record("f", 0, value)])
    expect(await bench.store.records("f"), [Record("f", 0, value)])
