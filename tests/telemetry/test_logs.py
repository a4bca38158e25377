"""Log lines say which job they belong to, and carry what the job said of itself; nobody else's lines do."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest

from culm.logs import JobFields, JsonLines, LogFormat, formatter, with_fields
from tests.tasks.harness import Bench, run

log = logging.getLogger("shop")


class Lines:
    """What was logged, through a handler as `culm worker` has it."""

    def __init__(self, kind: LogFormat) -> None:
        self._stream = StringIO()
        self.handler = logging.StreamHandler(self._stream)
        self.handler.addFilter(JobFields())
        self.handler.setFormatter(formatter(kind))

    @property
    def text(self) -> list[str]:
        return self._stream.getvalue().splitlines()

    @property
    def data(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text]


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> Iterator[Lines]:
    lines = Lines(getattr(request, "param", "json"))
    log.addHandler(lines.handler)
    log.setLevel(logging.INFO)
    yield lines
    log.removeHandler(lines.handler)
    log.setLevel(logging.NOTSET)


def of_job(lines: Lines, job_id: str) -> list[dict[str, Any]]:
    return [line for line in lines.data if line.get("job_id") == job_id]


def test_the_lines_of_a_task_have_its_job_task_and_attempt_and_others_have_not(lines: Lines) -> None:
    bench = Bench()

    @bench.app.task(name="mail.send")
    async def send(to: str) -> None:
        log.info("sending to %s", to)

    async def scenario() -> str:
        log.info("outside")
        async with bench.working():
            job = await send.enqueue("ada")
            await job.result()
            return job.id

    job_id = run(scenario())
    [line] = of_job(lines, job_id)
    assert (line["task"], line["attempt"], line["message"], line["level"], line["logger"]) == (
        "mail.send",
        1,
        "sending to ada",
        "INFO",
        "shop",
    )
    assert line["time"].endswith("+00:00")
    [outside] = [line for line in lines.data if line["message"] == "outside"]
    assert set(outside) == {"time", "level", "logger", "message"}


def test_fields_of_one_job_are_inherited_by_its_tasks_and_threads_and_by_no_other_job(lines: Lines) -> None:
    bench = Bench()

    @bench.app.task
    async def outer(order: int) -> None:
        with_fields(order=order)
        await asyncio.to_thread(log.info, "in a thread of %d", order)
        await asyncio.gather(asyncio.create_task(inner(order)))

    async def inner(order: int) -> None:
        with_fields(step="inner")
        await asyncio.sleep(0)
        log.info("in a task of %d", order)

    @bench.app.task
    def blocking(order: int) -> None:
        log.info("no fields of %d", order)
        with_fields(order=order)
        log.info("with fields of %d", order)

    async def scenario() -> None:
        async with bench.working():
            jobs = [await outer.enqueue(n) for n in range(5)] + [await blocking.enqueue(n) for n in range(5)]
            for job in jobs:
                await job.result()

    run(scenario())
    for n in range(5):
        by_message = {line["message"]: line for line in lines.data}
        assert by_message[f"in a thread of {n}"]["order"] == n
        assert "step" not in by_message[f"in a thread of {n}"]
        assert (by_message[f"in a task of {n}"]["order"], by_message[f"in a task of {n}"]["step"]) == (n, "inner")
        assert "order" not in by_message[f"no fields of {n}"]
        assert by_message[f"with fields of {n}"]["order"] == n


def test_a_field_that_every_line_has_is_refused() -> None:
    with pytest.raises(ValueError, match="log lines have job_id, message by themselves"):
        with_fields(job_id="x", message="y")


@pytest.mark.parametrize("lines", ["text"], indirect=True)
def test_text_lines_end_with_the_fields_and_a_value_cannot_look_like_another_field(lines: Lines) -> None:
    bench = Bench()

    @bench.app.task(name="t")
    async def work() -> None:
        with_fields(note='x] attempt=7 "\n', order=42)
        log.info("hello")

    async def scenario() -> str:
        async with bench.working():
            job = await work.enqueue()
            await job.result()
            return job.id

    job_id = run(scenario())
    assert lines.text[-1].endswith(rf""" INFO hello [job_id={job_id} task=t attempt=1 note='x] attempt=7 "\n' order=42]""")


class _Broken:
    def __repr__(self) -> str:
        return "\udc80 broken"


def test_whatever_is_logged_becomes_one_json_object_on_one_line() -> None:
    """Made by hand: a test's report could not carry half a surrogate."""
    record = logging.LogRecord("a", logging.ERROR, "", 0, "two\nlines \udc80", (), None)
    record.__dict__ |= {"thing": _Broken(), "keys": {(1, 2): "x"}, "deep": [1]}
    try:
        raise ValueError("no")
    except ValueError:
        record.exc_info = sys.exc_info()
    text = JsonLines().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert line["message"] == "two\nlines \\udc80"
    assert "broken" in str(line["thing"])
    assert line["error"].endswith("ValueError: no")


def test_a_record_that_no_filter_saw_is_written_too() -> None:
    record = logging.LogRecord("a", logging.INFO, "", 0, "hi %s", ("you",), None)
    assert json.loads(JsonLines().format(record))["message"] == "hi you"
    assert formatter("text").format(record).endswith(" INFO hi you")
