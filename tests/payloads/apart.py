"""An app whose tasks run in processes of their own, which import it from here."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel

from culm import App, Delivery, Keys, Next, Offload, Outcome, current, emit

app = App("memory://", keys=Keys({"a": b"k" * 32}, encrypt=True), offload=Offload(beyond=1_000))
wrapped: list[str] = []


class Line(BaseModel):
    name: str
    price: Decimal


@app.middleware
async def look(delivery: Delivery, next: Next) -> Outcome:  # noqa: A002
    outcome = await next(delivery)
    wrapped.append(type(outcome).__name__)
    return outcome


@app.task
async def echo(data: bytes) -> int:
    return len(data)


@app.task(runs_in="process")
def far(line: Line, data: bytes) -> Line:
    emit("said", line)
    echo.sync.enqueue(data)
    return Line(name=line.name * len(data), price=line.price + current().attempt)


@app.task(runs_in="process")
def reads() -> Line:
    return current().events["said"][0].read(Line)
