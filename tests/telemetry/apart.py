"""An app with traces whose task runs in a process of its own, which imports it from here."""

from __future__ import annotations

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from culm import App
from culm.telemetry.otel import Tracing

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
app = App("memory://", tracing=Tracing(provider))


@app.task(name="leaf")
async def leaf() -> None: ...


@app.task(runs_in="process", name="far")
async def far() -> None:
    await leaf.enqueue()
