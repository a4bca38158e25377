"""A function, decorated; a worker in this process; a result. `memory://` needs nothing at all and forgets everything at the end.

Run it: python examples/quickstart.py
"""

import asyncio
from dataclasses import dataclass

from culm import App, TaskFailed

app = App("memory://")


@dataclass
class Receipt:
    to: str
    length: int


@app.task(queue="mail", timeout=30)
async def send_email(to: str, *, subject: str) -> Receipt:
    if "@" not in to:
        raise ValueError(f"{to!r} is no address")
    await asyncio.sleep(0.01)  # here a mail would be sent
    return Receipt(to, len(subject))


async def main() -> None:
    async with app, app.worker(concurrency=10):
        job = await send_email.enqueue("ada@example.com", subject="hi")
        receipt = await job.result(timeout=10)
        print(f"sent to {receipt.to}")

        people = ["grace@example.com", "edsger@example.com", "barbara@example.com"]
        jobs = await app.enqueue_many(send_email.bind(to, subject="news") for to in people)
        for sent in jobs:
            print(f"sent to {(await sent.result(timeout=10)).to}")

        try:
            await (await send_email.enqueue("nobody", subject="hi")).result(timeout=10)
        except TaskFailed as e:
            print(f"as expected: {e.fault.message}")


if __name__ == "__main__":
    asyncio.run(main())
