"""One trace leads from the sender to the job to the jobs that it starts, and a join is linked to its members."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

from culm import App, IdConflict, Keys, Reject, RetryLater, TaskFailed, current, when
from culm.telemetry.otel import Tracing
from tests.tasks.harness import Bench, run, until
from tests.telemetry import apart


class Traced(Bench):
    """A bench whose spans are collected."""

    def __init__(self, *, keys: Keys | None = None) -> None:
        super().__init__()
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.app = App(store=self.store, tracing=Tracing(self.provider), keys=keys)

    def spans(self, name: str) -> Sequence[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def span(self, name: str) -> ReadableSpan:
        [found] = self.spans(name)
        return found


def is_child(child: ReadableSpan, parent: ReadableSpan) -> bool:
    assert child.context is not None
    assert parent.context is not None
    return child.parent is not None and child.parent.span_id == parent.context.span_id and child.context.trace_id == parent.context.trace_id


def test_a_run_is_the_child_of_the_send_that_is_the_child_of_its_sender() -> None:
    bench = Traced()

    @bench.app.task(name="mail", queue="q")
    async def mail(to: str) -> str:
        return f"{get_current_span().get_span_context().span_id:x}"

    async def scenario() -> str:
        with bench.provider.get_tracer("test").start_as_current_span("request"):
            job = await mail.using(headers={"mine": "1"}).enqueue("ada@example.com")
        async with bench.working():
            assert bench.job(job.id).headers["mine"] == "1"
            assert await job.result() == f"{bench.span('run mail').context.span_id:x}"
            return job.id

    job_id = run(scenario())
    sent, ran = bench.span("send mail"), bench.span("run mail")
    assert is_child(sent, bench.span("request"))
    assert is_child(ran, sent)
    assert (sent.kind, ran.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert ran.attributes is not None
    assert dict(ran.attributes) == {
        "messaging.system": "culm", "messaging.destination.name": "q", "messaging.message.id": job_id, "culm.task": "mail",
        "culm.root": job_id, "culm.attempt": 1, "culm.expiries": 0, "culm.outcome": "succeeded",
    }  # fmt: skip
    assert "ada@example.com" not in bench.span("run mail").to_json() + sent.to_json()  # arguments are nobody's business


def test_child_jobs_go_on_with_the_trace_also_from_threads_and_through_seals() -> None:
    bench = Traced(keys=Keys({"a": b"k" * 32}))

    @bench.app.task(name="leaf")
    async def leaf() -> None: ...

    @bench.app.task(name="middle")
    def middle() -> None:
        leaf.sync.enqueue()

    @bench.app.task(name="root")
    async def root() -> None:
        await middle.enqueue()
        await leaf.using(now=True).enqueue()

    async def scenario() -> None:
        async with bench.working():
            await root.enqueue()
            await until(lambda: len(bench.spans("run leaf")) == 2)

    run(scenario())
    assert is_child(bench.span("send middle"), bench.span("run root"))
    assert is_child(bench.span("run middle"), bench.span("send middle"))
    parents = [bench.span("run root"), bench.span("run middle")]
    for sent in bench.spans("send leaf"):
        assert any(is_child(sent, parent) for parent in parents)
    for ran in bench.spans("run leaf"):
        assert any(is_child(ran, sent) for sent in bench.spans("send leaf"))
    assert len({span.context.trace_id for span in bench.exporter.get_finished_spans() if span.context is not None}) == 1


def test_a_trace_goes_on_through_a_process_of_its_own() -> None:
    async def scenario() -> None:
        async with apart.app, apart.app.worker(children=1):
            for n in (1, 2):
                await apart.far.enqueue()
                await until(lambda n=n: len([s for s in apart.exporter.get_finished_spans() if s.name == "run leaf"]) == n)  # type: ignore[misc]

    run(scenario())
    by_trace: dict[int, list[str]] = {}
    for span in apart.exporter.get_finished_spans():
        if span.context is not None:
            by_trace.setdefault(span.context.trace_id, []).append(span.name)
    # The span of the send inside is that process's own to export.
    assert [sorted(names) for names in by_trace.values()] == [["run far", "run leaf", "send far"]] * 2


def test_a_join_is_linked_to_the_members_that_left_with_it() -> None:
    bench = Traced()

    @bench.app.task(name="member")
    async def member(n: int) -> None: ...

    @bench.app.task(name="root")
    async def root() -> None:
        for n in range(2):
            await member.using(topic="ended").enqueue(n)
        when(("ended", 3), run=join.bind())
        await member.using(topic="ended").enqueue(2)
        await member.enqueue(3)

    @bench.app.task(name="join")
    async def join() -> None: ...

    async def scenario() -> None:
        async with bench.working():
            await root.enqueue()
            await until(lambda: len(bench.spans("run join")) == 1 and len(bench.spans("run member")) == 4)

    run(scenario())
    joined = bench.span("run join")
    assert is_child(joined, bench.span("send join"))
    linked = {link.context.span_id for link in joined.links}
    members = [span.context.span_id for span in bench.spans("send member") if span.context is not None]
    assert len(linked) == 3
    assert linked < set(members)


@pytest.mark.parametrize("keys", [None, Keys({"a": b"k" * 32})])
def test_a_send_that_is_refused_ends_its_span_as_an_error(keys: Keys | None) -> None:
    bench = Traced(keys=keys)

    @bench.app.task(name="first")
    async def first() -> None: ...

    @bench.app.task(name="second")
    async def second() -> None: ...

    async def scenario() -> None:
        await first.using(id="one").enqueue()
        with pytest.raises(IdConflict):
            await second.using(id="one").enqueue()

    run(scenario())
    assert bench.span("send first").status.status_code is StatusCode.UNSET
    assert bench.span("send second").status.status_code is StatusCode.ERROR


def test_every_attempt_has_a_span_that_says_how_it_ended() -> None:
    bench = Traced()

    @bench.app.task(name="work", retry=1)
    async def work() -> None:
        if current().attempt == 1:
            raise RetryLater("busy", after=0)
        raise Reject("no way")

    async def scenario() -> None:
        async with bench.working():
            with pytest.raises(TaskFailed):
                await (await work.enqueue()).result()

    run(scenario())
    first, second = bench.spans("run work")
    for span, outcome, error in ((first, "retried", "RetryLater"), (second, "failed", "Reject")):
        assert span.attributes is not None
        assert span.attributes["culm.outcome"] == outcome
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, error)
        [event] = span.events
        assert event.attributes is not None
        assert event.attributes["exception.type"] == error


def test_many_jobs_of_one_commit_share_one_send() -> None:
    bench = Traced()

    @bench.app.task(name="a")
    async def a(n: int) -> None: ...

    @bench.app.task(name="b")
    async def b(n: int) -> None: ...

    async def scenario() -> None:
        await bench.app.enqueue_many([a.bind(1), b.bind(2)])
        async with bench.working():
            await until(lambda: len(bench.spans("run a")) == len(bench.spans("run b")) == 1)

    run(scenario())
    sent = bench.span("send (several)")
    assert sent.attributes is not None
    assert sent.attributes["messaging.batch.message_count"] == 2
    assert is_child(bench.span("run a"), sent)
    assert is_child(bench.span("run b"), sent)


def test_a_trace_that_the_sender_itself_gave_stays_and_nonsense_in_a_header_harms_nobody() -> None:
    bench = Traced()
    theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    @bench.app.task(name="work")
    async def work() -> int:
        return 1

    async def scenario() -> None:
        async with bench.working():
            await (await work.using(headers={"traceparent": theirs}).enqueue()).result()
            assert await (await work.using(headers={"traceparent": "nonsense", "culm-links": "a,,b" * 500}).enqueue()).result() == 1

    run(scenario())
    first, second = bench.spans("run work")
    assert first.context is not None
    assert f"{first.context.trace_id:032x}" == theirs[3:35]
    assert second.parent is None
    assert not second.links


def test_a_worker_that_is_started_within_a_span_does_not_make_it_the_parent_of_what_it_runs() -> None:
    bench = Traced()

    @bench.app.task(name="work")
    async def work() -> None: ...

    async def scenario() -> None:
        plain = App(store=bench.store)
        job = await plain.task(name="work")(work.fn).enqueue()
        with bench.provider.get_tracer("test").start_as_current_span("deploy"):
            async with bench.working():
                await job.result()

    run(scenario())
    assert bench.span("run work").parent is None


def test_without_its_package_it_says_what_to_install() -> None:
    program = (
        "import sys\nsys.modules['opentelemetry'] = None\nfrom culm.errors import ConfigError\n"
        "try:\n    import culm.telemetry.otel\nexcept ConfigError as e:\n    print(e)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "traces need a package that is not installed; run: pip install 'culm[otel]'\n"


def test_without_an_sdk_a_trace_that_comes_from_elsewhere_goes_on_and_none_begins() -> None:
    bench = Bench()
    bench.app = App(store=bench.store, tracing=Tracing())  # no provider was installed: nobody makes spans
    theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    children: dict[str, str] = {}

    @bench.app.task(name="log", queue="q")
    async def log(who: str) -> None:
        children[who] = current().headers.get("traceparent", "")

    @bench.app.task(name="mail", queue="q")
    async def mail(who: str) -> None:
        await log.enqueue(who)

    async def scenario() -> None:
        plain = await mail.enqueue("ours")
        await mail.using(headers={"traceparent": theirs}).enqueue("theirs")
        assert bench.job(plain.id).headers == {}
        async with bench.working():
            await until(lambda: len(children) == 2)

    run(scenario())
    assert children == {"ours": "", "theirs": theirs}


def test_without_an_sdk_a_join_still_tells_of_members_that_carry_a_trace() -> None:
    bench = Bench()
    bench.app = App(store=bench.store, tracing=Tracing())
    theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    said: list[str] = []

    @bench.app.task(name="member", queue="q")
    async def member() -> None: ...

    @bench.app.task(name="join", queue="q")
    async def join() -> None:
        said.append(current().headers.get("culm-links", ""))

    @bench.app.task(name="root", queue="q")
    async def root() -> None:
        await member.using(topic="ended", headers={"traceparent": theirs}).enqueue()
        when(("ended", 1), run=join.bind())

    async def scenario() -> None:
        await root.enqueue()
        async with bench.working():
            await until(lambda: bool(said))

    run(scenario())
    assert said == [theirs]
