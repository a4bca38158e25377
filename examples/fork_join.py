"""A task that forks and joins: one job per word, and a job that runs once all of them have ended. All leave with one commit.

Run it: python examples/fork_join.py
"""

import asyncio

from culm import App, Succeeded, current, emit, when

app = App("memory://")

TEXT = "the culm is hollow and light and every node holds"


@app.task
async def read(text: str) -> str:
    """Forks; returns the id of the join, so that the caller can await it."""
    words = text.split()
    for word in words:
        await measure.using(topic="measured").enqueue(word)  # its end is an event under this topic
    emit("titled", text[:8])  # an event of our own
    return when(("measured", len(words)), "titled", run=report.bind()).id


@app.task
async def measure(word: str) -> int:
    return len(word)


@app.task
async def report() -> str:
    events = current().events
    ends = [event.outcome() for event in events["measured"]]
    lengths = [measure.signature.decode_result(end.value) for end in ends if isinstance(end, Succeeded)]
    title = events["titled"][0].read(str)
    return f"{title}...: {len(lengths)} words, {sum(lengths)} letters"


async def main() -> None:
    async with app, app.worker():
        join_id = await (await read.enqueue(TEXT)).result(timeout=10)
        print(await app.job(join_id, report).result(timeout=10))


if __name__ == "__main__":
    asyncio.run(main())
