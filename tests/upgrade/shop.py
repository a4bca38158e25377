"""Tasks that old and new versions of culm both run: each start and each end is a line in a file, with the version that ran it.

Run as a program, it sends: `python shop.py PREFIX N`. It knows no more of culm than the first version did.
"""

from __future__ import annotations

import asyncio
import os
import sys

import culm
from culm import App, RetryLater, current, emit, when

app = App()
LEDGER = os.environ["SHOP_LEDGER"]
WHO = os.environ.get("SHOP_WHO", "")


def note(what: str, job_id: str) -> None:
    with open(LEDGER, "a", encoding="utf-8") as ledger:
        ledger.write(f"{what} {job_id} {WHO}\n")


@app.task(name="one", keep=3600)
async def one(n: int) -> int:
    await asyncio.sleep(0.01)
    note("one", current().id)
    return n


@app.task(name="again", retry=2, keep=3600)
def again(n: int) -> int:
    if current().attempt == 1:
        raise RetryLater("once more", after=0.05)
    note("again", current().id)
    return n


@app.task(name="fork", keep=3600)
async def fork(n: int) -> None:
    for part in range(3):
        await one.using(topic="parts").enqueue(part)
    emit("said", n)
    when(("parts", 3), "said", run=join.bind(n))
    note("fork", current().id)


@app.task(name="join", keep=3600)
async def join(n: int) -> int:
    assert [event.read(int) for event in current().events["said"]] == [n]
    note("join", current().id.partition("~")[0])
    return len(current().events["parts"])


async def send(prefix: str, count: int) -> None:
    async with app:
        for n in range(count):
            await one.using(id=f"{prefix}-one-{n}").enqueue(n)
            await again.using(id=f"{prefix}-again-{n}", priority=n % 10).enqueue(n)
            await fork.using(id=f"{prefix}-fork-{n}", delay=0.1).enqueue(n)
    sys.stderr.write(f"{os.path.dirname(culm.__file__)} sent {prefix}\n")


if __name__ == "__main__":
    asyncio.run(send(sys.argv[1], int(sys.argv[2])))
