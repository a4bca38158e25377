"""The registry: names, duplicates, what is not there; and jobs whose task or bytes nobody here understands."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from culm import App, ConfigError, DuplicateTask, TaskLost, UnknownTask
from culm.decide import UNKNOWN_AGE_MS, UNKNOWN_PAUSE_MS
from culm.job import WIRE
from tests.tasks.harness import Bench, run, until


def test_a_task_is_named_by_its_module_and_function_unless_told() -> None:
    app = App("memory://")

    @app.task
    def here() -> None: ...

    @app.task(name="mail.send")
    def there() -> None: ...

    assert (here.name, there.name) == (f"{__name__}.test_a_task_is_named_by_its_module_and_function_unless_told.here", "mail.send")
    assert app.find("mail.send") is there
    assert repr(there) == "<Task mail.send>"


def test_a_task_called_plainly_is_the_plain_function() -> None:
    app = App("memory://")

    @app.task
    def add(a: int, b: int = 2) -> int:
        """Adds."""
        return a + b

    @app.task
    async def later(a: int) -> int:
        return a

    assert add(1) == 3
    assert add.using(delay=3)(1, b=5) == 6
    assert run(later(4)) == 4
    assert (add.__name__, add.__doc__) == ("add", "Adds.")


def test_a_second_task_of_a_name_is_refused() -> None:
    app = App("memory://")
    app.task(name="mail.send")(first)
    with pytest.raises(DuplicateTask, match=r"^task 'mail\.send' is registered already, by .*\.first; give one of them another name=$"):
        app.task(name="mail.send")(second)
    assert app.find("mail.send").fn is first


def first() -> None: ...
def second() -> None: ...


@pytest.mark.parametrize("name", ["", "a b", "a~b", "x" * 201, "a\n"])
def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^task name must be 1 to 200 printable characters"):
        App("memory://").task(name=name)(first)


def test_an_unknown_task_names_the_nearest() -> None:
    app = App("memory://")
    with pytest.raises(UnknownTask, match=r"^no task 'mail.sned' in this app; it has no tasks at all$"):
        app.find("mail.sned")
    app.task(name="mail.send")(first)
    with pytest.raises(UnknownTask, match=r"^no task 'mail.sned' in this app; did you mean 'mail.send'\?$"):
        app.find("mail.sned")
    with pytest.raises(UnknownTask, match=r"it has mail.send$"):
        app.find("zzz")


def test_an_unknown_store_is_found_at_first_use_and_names_the_known_ones() -> None:
    async def main() -> None:
        task = App("redsi://ada:secret@host").task(name="t")(first)
        with pytest.raises(ConfigError, match="must start with memory://, sqlite://") as caught:
            await task.enqueue()
        assert "secret" not in str(caught.value)

    run(main())


def test_a_task_that_is_unknown_here_is_left_to_others() -> None:
    async def main() -> None:
        here, there = Bench(), Bench()
        there.store, there.app = here.store, App(store=here.store, rng=random.Random(2))
        here.app.task(name="known")(first)
        job = await there.app.task(name="unknown")(second).enqueue()
        async with here.working():
            await until(lambda: here.store.tables.rows[job.id].fence > 0 and not here.store.tables.rows[job.id].lease)
            view = await job.view()
            assert (view.state, view.attempt, view.due_in_ms) == ("open", 0, UNKNOWN_PAUSE_MS)
        async with there.working():
            here.clock.advance(ms=UNKNOWN_PAUSE_MS)
            await job.result()

    run(main())


def test_a_task_that_is_unknown_everywhere_becomes_a_dead_letter() -> None:
    async def main() -> None:
        bench = Bench()
        job = await App(store=bench.store, rng=random.Random(2)).task(name="unknown")(second).enqueue()
        bench.app.task(name="known")(first)
        bench.clock.advance(ms=UNKNOWN_AGE_MS + 1)
        async with bench.working():
            why = r"was given up: no worker of queue 'default' that knows task 'unknown' took it within 600 s"
            with pytest.raises(TaskLost, match=why):
                await job.result()
            assert [v.id for v in await bench.store.jobs(state="lost")] == [job.id]

    run(main())


def test_a_job_of_a_newer_wire_version_is_left_to_newer_workers_and_then_a_dead_letter() -> None:
    async def main() -> None:
        bench = Bench()
        task = bench.app.task(name="known")(first)
        job = await task.enqueue()
        row = bench.store.tables.rows[job.id]
        row.job = replace(row.job, v=WIRE + 1)
        async with bench.working():
            await until(lambda: row.fence > 0 and not row.lease)
            assert await job.status() == "open"
            bench.clock.advance(ms=UNKNOWN_AGE_MS + 1)
            with pytest.raises(TaskLost, match=f"it has wire version {WIRE + 1}, and no worker that reads it took it within 600 s"):
                await job.result()

    run(main())


def test_arguments_that_no_longer_fit_the_signature_fail_the_job() -> None:
    async def main() -> None:
        bench = Bench()
        sender = App(store=bench.store, rng=random.Random(2))

        async def old(a: int, b: str) -> None: ...

        async def new(a: int, b: int) -> None: ...

        job = await sender.task(name="t")(old).enqueue(1, "x")
        bench.app.task(name="t")(new)
        async with bench.working():
            with pytest.raises(Exception, match=r"TypeError: the arguments stored for t do not fit its signature: Expected `int`.*`b`"):
                await job.result()

    run(main())
