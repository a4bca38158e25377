"""OpenTelemetry: a span for every send and every run, in one trace from the sender to the job to the jobs that it starts.

    app = App(..., tracing=Tracing())    # needs `pip install 'culm[otel]'`, and an SDK that exports; docs/telemetry.md

A run is a child of the send that its job came by. The job that a join runs is a child of the attempt that said `when()`, and is
linked to the members that this attempt sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from msgspec.structs import replace

from culm.current import Effects, current
from culm.errors import ConfigError
from culm.job import Delivery, Job
from culm.middleware import Next
from culm.outcome import Failed, Fault, Lost, Outcome, Retried, Succeeded

try:
    from opentelemetry.context import Context, attach
    from opentelemetry.trace import (
        Link,
        NoOpTracerProvider,
        ProxyTracerProvider,
        Span,
        SpanKind,
        Status,
        StatusCode,
        TracerProvider,
        get_current_span,
        get_tracer,
        get_tracer_provider,
    )
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    raise ConfigError("traces need a package that is not installed; run: pip install 'culm[otel]'") from None

PARENT = "traceparent"
LINKS = "culm-links"  # header of a join's job: the traceparents of its members
MOST_LINKS = 32


class Tracing:
    """Args: provider: whose spans they are; by default OpenTelemetry's global one."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = get_tracer("culm", tracer_provider=provider)
        self._travels = TraceContextTextMapPropagator()

    @contextmanager
    def sending(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        if self._has_nothing_to_carry():
            yield list(jobs)
            return
        first = jobs[0]
        name = first.task if all(job.task == first.task for job in jobs) else "(several)"
        about = _about(first) if len(jobs) == 1 else {**_SYSTEM, "messaging.batch.message_count": len(jobs)}
        with self._tracer.start_as_current_span(f"send {name}", kind=SpanKind.PRODUCER, attributes=about):
            yield [self._carrying(job) for job in jobs]

    def leaving(self, job: Job) -> Job:
        if self._has_nothing_to_carry():
            return job
        with self._tracer.start_as_current_span(f"send {job.task}", kind=SpanKind.PRODUCER, attributes=_about(job)):
            return self._carrying(job)

    def onward(self, job: Job) -> Job:
        headers = dict(job.headers)
        self._travels.inject(headers)
        return replace(job, headers=headers)

    def go_on(self, job: Job) -> None:
        attach(self._context(job.headers))  # for good: the context is the job's own

    async def __call__(self, delivery: Delivery, next: Next, /) -> Outcome:  # noqa: A002  # the word of middleware
        job = delivery.job
        if PARENT not in job.headers and self._has_nothing_to_carry():
            outcome = await next(delivery)
            _link_joins_of(outcome)
            return outcome
        about = {**_about(job), "culm.attempt": delivery.attempt, "culm.expiries": delivery.expiries}
        with self._tracer.start_as_current_span(
            f"run {job.task}",
            context=self._context(job.headers),
            kind=SpanKind.CONSUMER,
            attributes=about,
            links=self._links(job.headers) if LINKS in job.headers else (),
        ) as span:
            outcome = await next(delivery)
            _describe(span, outcome)
            _link_joins_of(outcome)
            return outcome

    def _has_nothing_to_carry(self) -> bool:
        """No SDK makes spans here (until one is installed), and no trace of somebody else is current."""
        provider = self._provider or get_tracer_provider()
        return isinstance(provider, ProxyTracerProvider | NoOpTracerProvider) and not get_current_span().get_span_context().is_valid

    def _context(self, headers: Mapping[str, str]) -> Context:
        """Of the headers alone: what happens to be current in the worker is another trace."""
        return self._travels.extract(headers, Context())

    def _links(self, headers: Mapping[str, str]) -> list[Link]:
        members = headers[LINKS].split(",", MOST_LINKS)[:MOST_LINKS]
        contexts = [get_current_span(self._context({PARENT: member})).get_span_context() for member in members]
        return [Link(context) for context in contexts if context.is_valid]

    def _carrying(self, job: Job) -> Job:
        """A trace that the sender itself put into the headers stays."""
        if PARENT in job.headers:
            return job
        headers = dict(job.headers)
        self._travels.inject(headers)
        return replace(job, headers=headers)


_SYSTEM: dict[str, str | int] = {"messaging.system": "culm"}


def _about(job: Job) -> dict[str, str | int]:
    return {
        **_SYSTEM,
        "messaging.destination.name": job.queue,
        "messaging.message.id": job.id,
        "culm.task": job.task,
        "culm.root": job.scope,
    }


def _link_joins_of(outcome: Outcome) -> None:
    """Tell each join's job of the members that leave with it."""
    effects = current().effects
    if effects is not None and effects.triggers and isinstance(outcome, Succeeded):
        _link_joins(effects)


def _link_joins(effects: Effects) -> None:
    joins = {trigger.job_id: {topic for topic, _ in trigger.topics} for trigger in effects.triggers}
    for n, job in enumerate(effects.send):
        if (topics := joins.get(job.id)) is not None:
            members = [other.headers[PARENT] for other in effects.send if other.topic in topics and PARENT in other.headers]
            if members:
                effects.send[n] = replace(job, headers={**job.headers, LINKS: ",".join(members[:MOST_LINKS])})


def _describe(span: Span, outcome: Outcome) -> None:
    span.set_attribute("culm.outcome", type(outcome).__name__.lower())
    match outcome:
        case Failed(fault=fault) | Retried(fault=fault):
            _blame(span, fault)
        case Lost(reason=why):
            span.set_status(Status(StatusCode.ERROR, why))
        case _:
            pass


def _blame(span: Span, fault: Fault) -> None:
    span.set_status(Status(StatusCode.ERROR, fault.type))
    said = {"exception.type": fault.type, "exception.message": fault.message, "exception.stacktrace": fault.trace}
    span.add_event("exception", said)
