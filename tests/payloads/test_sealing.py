"""Between an app that sends and a worker that runs: what is not sealed as it should be is a dead letter, and is never decoded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from culm import App, Keys, NotAuthentic, Succeeded, TaskLost, current, emit, when
from culm.cli.output import described
from culm.envelope import Encrypted, Signed, is_wrapped, unwrap
from culm.job import PLAIN, WRAPPED, Job
from culm.outcome import Failed, Fault, encode_outcome
from culm.stores.rows import Row
from tests.tasks.harness import Bench, run, until

SECRET, OTHER = b"hunter2-" * 4, b"hunter3-" * 4
KINDS = [pytest.param(False, id="signed"), pytest.param(True, id="encrypted")]


class Trap:
    """A type whose decoder tells that it was asked."""

    asked = 0


def trapped(bench: Bench) -> Any:
    """A task whose argument must not be decoded."""
    Trap.asked = 0

    def decode(_: Any) -> Trap:
        Trap.asked += 1
        return Trap()

    bench.app.codec(Trap, encode=lambda _: 1, decode=decode)

    async def work(trap: Trap, more: int = 0) -> int:
        return more

    return bench.app.task(name="work", queue="q")(work)


def row_of(bench: Bench, job_id: str) -> Row:
    return bench.store.tables.rows[job_id]


async def refused(bench: Bench, job_id: str, task: Any, says: str) -> None:
    """The job becomes a dead letter for that reason, and nothing of its arguments is decoded."""
    Trap.asked = 0
    async with bench.working():
        with pytest.raises(TaskLost, match=says):
            await bench.app.job(job_id, task).result()
    assert Trap.asked == 0
    assert row_of(bench, job_id).attempt == 1


@pytest.mark.parametrize("encrypt", KINDS)
def test_a_sealed_job_runs_and_its_result_is_sealed(encrypt: bool) -> None:
    bench = Bench(keys=Keys({"a": SECRET}, encrypt=encrypt))
    task = trapped(bench)

    async def scenario() -> None:
        async with bench.working():
            jobs = [await task.enqueue(Trap(), 7), *await bench.app.enqueue_many([task.bind(Trap(), 7)])]
            for handle in jobs:
                assert await handle.result() == 7
                outcome = await handle.outcome()
                assert outcome == Succeeded(b"\x07")
                row = row_of(bench, handle.id)
                assert row.job.v == WRAPPED
                assert isinstance(unwrap(row.job.args), Encrypted if encrypt else Signed)
                assert isinstance(row.last, Succeeded)
                assert isinstance(unwrap(row.last.value), Encrypted if encrypt else Signed)

    run(scenario())


def unsigned(job: Job, other: Job) -> Job:
    return replace(job, v=PLAIN, args=b"\x91\x01")


def unsigned_of_version_2(job: Job, other: Job) -> Job:
    return replace(job, args=b"\x91\x01")


def moved(job: Job, other: Job) -> Job:
    return replace(job, args=other.args)


def requeued(job: Job, other: Job) -> Job:
    return replace(job, queue="default")


def retasked(job: Job, other: Job) -> Job:
    return replace(job, task="other")


def prolonged(job: Job, other: Job) -> Job:
    return replace(job, deadline_ms=None)


def changed(job: Job, other: Job) -> Job:
    return replace(job, args=job.args[:-1] + bytes([job.args[-1] ^ 1]))


def cut(job: Job, other: Job) -> Job:
    return replace(job, args=job.args[:5])


@pytest.mark.parametrize("encrypt", KINDS)
@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (unsigned, "its message is refused: it is not signed, and this app has keys"),
        (unsigned_of_version_2, "it is not signed"),
        (moved, "its bytes were changed, or are another message's"),
        (requeued, "its bytes were changed, or are another message's"),
        (retasked, "its bytes were changed, or are another message's"),
        (prolonged, "its bytes were changed, or are another message's"),
        (changed, "its bytes were changed, or are another message's"),
        (cut, "its envelope cannot be read"),
    ],
)
def test_a_message_that_was_tampered_with_is_a_dead_letter_and_never_decoded(
    encrypt: bool, tamper: Callable[[Job, Job], Job], says: str
) -> None:
    bench = Bench(keys=Keys({"a": SECRET}, encrypt=encrypt))
    task = trapped(bench)

    @bench.app.task(name="other", queue="default")
    async def other_task(trap: Trap, more: int = 0) -> int:
        return more

    async def scenario() -> None:
        victim = await task.using(deadline=60).enqueue(Trap(), 1)
        other = await task.using(deadline=60, delay=10).enqueue(Trap(), 2)
        row = row_of(bench, victim.id)
        lanes = bench.store.tables.ready
        row.job = tamper(row.job, row_of(bench, other.id).job)
        if row.job.queue != "q":  # as a store would have it
            lane = lanes["q", 5]
            entry = next(entry for entry in lane if entry[2] is row)
            lane.remove(entry)
            lanes["default", 5] = [entry]
        await refused(bench, victim.id, task, says)
        bench.clock.advance(ms=10_000)
        async with bench.working():
            assert await bench.app.job(other.id, task).result() == 2  # nobody else suffers

    run(scenario())


def test_a_job_sealed_with_an_unknown_key_is_a_dead_letter() -> None:
    bench = Bench(keys=Keys({"new": SECRET}))
    task = trapped(bench)
    stranger = App(store=bench.store, keys=Keys({"other": OTHER}))
    stranger.kinds = bench.app.kinds

    async def scenario() -> None:
        sent = stranger.task(name="work", queue="q")(task.fn)
        job = await sent.enqueue(Trap())
        await refused(bench, job.id, task, "it is sealed with key 'other', which this app does not know")

    run(scenario())


def test_a_sealed_job_at_a_worker_without_keys_is_a_dead_letter_that_says_so() -> None:
    bench = Bench()
    task = trapped(bench)
    sender = App(store=bench.store, keys=Keys({"a": SECRET}))
    sender.kinds = bench.app.kinds

    async def scenario() -> None:
        job = await sender.task(name="work", queue="q")(task.fn).enqueue(Trap())
        await refused(bench, job.id, task, "it is sealed with key 'a', and this app has no keys")

    run(scenario())


def test_while_keys_rotate_old_messages_still_run() -> None:
    bench = Bench(keys=Keys({"new": OTHER, "old": SECRET}, use="new"))
    before = App(store=bench.store, keys=Keys({"old": SECRET}))

    async def double(n: int) -> int:
        return 2 * n

    task, old_task = bench.app.task(name="double")(double), before.task(name="double")(double)

    async def scenario() -> None:
        job = await old_task.enqueue(3)
        async with bench.working():
            assert await bench.app.job(job.id, task).result() == 6
            with pytest.raises(NotAuthentic, match="it is sealed with key 'new', which this app does not know"):
                await job.result()  # its result was sealed with the new one

    run(scenario())


def test_a_result_that_was_replaced_is_refused_where_it_is_read() -> None:
    bench = Bench(keys=Keys({"a": SECRET}))

    @bench.app.task
    async def number(n: int) -> int:
        return n

    async def scenario() -> None:
        async with bench.working():
            one, two = await number.enqueue(1), await number.enqueue(2)
            assert [await one.result(), await two.result()] == [1, 2]
        row_of(bench, one.id).last, last = row_of(bench, two.id).last, row_of(bench, one.id).last
        with pytest.raises(NotAuthentic, match="another message's"):
            await one.result()
        row_of(bench, one.id).last = Succeeded()
        with pytest.raises(NotAuthentic, match="it is not signed, and this app has keys"):
            await one.outcome()
        row_of(bench, one.id).last = last
        assert await one.result() == 1

    run(scenario())


def test_events_and_ends_of_members_are_sealed_and_a_join_reads_them() -> None:
    bench = Bench(keys=Keys({"a": SECRET}, encrypt=True))
    read: list[Any] = []

    @bench.app.task
    async def member(n: int) -> int:
        if n == 3:
            raise ValueError("no")
        return n

    @bench.app.task
    async def root() -> None:
        emit("said", {"a": 1})
        for n in (2, 3):
            await member.using(topic="ended").enqueue(n)
        when("said", ("ended", 2), run=join.bind())

    @bench.app.task(name="join")
    async def join() -> None:
        read.append(current().events["said"][0].read(dict))
        outcomes = [event.outcome() for event in current().events["ended"]]
        read.extend(sorted(msgspec.msgpack.decode(o.value) if isinstance(o, Succeeded) else -1 for o in outcomes))

    async def scenario() -> None:
        async with bench.working():
            await (await root.enqueue()).result()
            await until(lambda: bool(read))
        [scope] = bench.store.tables.scopes.values()
        assert all(is_wrapped(value) for value in scope.topics["said"].values())

    run(scenario())
    assert read == [{"a": 1}, -1, 2]


@pytest.mark.parametrize("forged", [b"\x07", encode_outcome(Succeeded(b"\x07"))])
def test_a_forged_event_makes_a_dead_letter_of_the_join(forged: bytes) -> None:
    bench = Bench(keys=Keys({"a": SECRET}))

    @bench.app.task
    async def root() -> None:
        emit("said", 1)
        when("said", run=join.bind())

    @bench.app.task(name="join", queue="later")
    async def join() -> None:
        raise AssertionError("it must not run")

    async def scenario() -> None:
        async with bench.working(queues=["default"]):
            await (await root.enqueue()).result()
        [scope] = bench.store.tables.scopes.values()
        scope.topics["said"] = dict.fromkeys(scope.topics["said"], forged)
        job_id = next(job.id for job in bench.jobs() if job.task == "join")
        async with bench.working():
            with pytest.raises(TaskLost, match=r"its event .* under 'said' is refused: .*it is not signed"):
                await bench.app.job(job_id, join).result()

    run(scenario())


def test_the_end_of_a_member_that_failed_carries_no_result_and_needs_no_seal() -> None:
    bench = Bench(keys=Keys({"a": SECRET}))

    async def scenario() -> None:
        from culm.commit import Event

        failed = encode_outcome(Failed(Fault("ValueError", "no")))
        assert await bench.app.payloads.open_event(Event("r", "t", "r~a", failed)) == failed

    run(scenario())


def test_keys_and_arguments_appear_in_no_log_line_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(keys=Keys({"a": SECRET}, encrypt=True))
    caplog.set_level(logging.DEBUG)

    @bench.app.task
    async def log_in(password: str) -> None:
        raise ValueError("wrong password")

    async def scenario() -> str:
        async with bench.working():
            job = await log_in.enqueue("correct horse")
            row_of(bench, job.id)
            await until(lambda: row_of(bench, job.id).finished)
            return repr(row_of(bench, job.id)) + repr(bench.app.payloads)

    seen = run(scenario()) + caplog.text
    assert "hunter2" not in seen
    assert "correct horse" not in seen


def test_the_command_line_shows_a_sealed_result_as_sealed_unless_it_has_the_keys() -> None:
    bench = Bench(keys=Keys({"a": SECRET}))

    @bench.app.task
    async def number() -> int:
        return 7

    async def scenario() -> None:
        async with bench.working():
            job = await number.enqueue()
            await job.result()
            outcome = row_of(bench, job.id).last
            assert outcome is not None
            assert described(outcome) == {"outcome": "succeeded", "result": "(sealed, or stored apart; `culm result` reads it)"}
            with pytest.raises(
                NotAuthentic, match=f"the result of job {job.id} is refused: it is sealed with key 'a', and this app has no keys"
            ):
                await App(store=bench.store).job(job.id, number).result()

    run(scenario())
