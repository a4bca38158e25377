"""Hooks: what a failed payment starts is committed with the failure, so that nobody is told twice, and nobody is forgotten.

Run it: python examples/hooks.py
"""

import asyncio

from culm import App, Failed, Lost, Reject, TaskFailed, current

app = App("memory://")
told: list[str] = []


@app.task
async def tell_support(job_id: str, why: str) -> None:
    told.append(f"{job_id}: {why}")


@app.task(retry=3)
async def charge(cents: int) -> str:
    if cents < 0:
        raise Reject("a charge must be positive")
    return f"charged {cents}"


@charge.on_failure
async def failed(ended: Failed | Lost) -> None:
    why = ended.fault.message if isinstance(ended, Failed) else ended.reason
    await tell_support.enqueue(current().id, why)  # leaves with the failure's own commit


async def main() -> None:
    async with app, app.worker(concurrency=4):
        print(await (await charge.enqueue(500)).result(timeout=10))
        try:
            await (await charge.using(id="order-42").enqueue(-1)).result(timeout=10)
        except TaskFailed:
            while not told:
                await asyncio.sleep(0.01)
        print(told[0])


if __name__ == "__main__":
    asyncio.run(main())
