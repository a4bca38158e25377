"""How a job lies in Redis: a record that is written once, and beside it short texts that the scripts change.

A record is: when it was sent (15 digits, by the server), its place (12 hexadecimal digits of the batch, by the server, and 4 of
its place therein), where its body begins (6 hexadecimal digits), then ` after at priority keep` and the lengths of queue, task
and topic, a line end, these three, and the job as it travels. `n`, the 16 digits, orders equal dues. rows.lua reads the same.
"""

from __future__ import annotations

from culm.job import Job, encode_job

HEAD = 27  # characters that the server writes
FIXED = 37  # those, the place in the batch, and where the body begins
MAX_PLACES = 0x10000

_heads: dict[tuple[object, ...], bytes] = {}  # most jobs are like others
_MOST_HEADS = 1_000


def tail(job: Job, place: int = 0) -> bytes:
    """A record, but for what the server writes before it."""
    like = (job.queue, job.task, job.topic, job.after_ms, job.at_ms, job.priority, job.keep_ms)
    head = _heads.get(like)
    if head is None:
        if len(_heads) >= _MOST_HEADS:
            _heads.clear()
        head = _heads[like] = _head(job)
    return b"%04x%b%b" % (place, head, encode_job(job))


def _head(job: Job) -> bytes:
    queue, task, topic = job.queue.encode(), job.task.encode(), job.topic.encode()
    after = "-" if job.after_ms is None else job.after_ms
    numbers = f" {after} {job.at_ms or 0} {job.priority} {job.keep_ms} {len(queue)} {len(task)} {len(topic)}\n".encode()
    texts = numbers + queue + task + topic
    return b"%06x%b" % (FIXED + len(texts), texts)


class Head:
    """What a record says before its body."""

    __slots__ = ("due", "priority", "queue", "sent", "task", "topic")

    def __init__(self, record: bytes) -> None:
        line, _, texts = record[FIXED:].partition(b"\n")
        after, at, priority, _, queue, task, topic = line.split()
        self.sent = int(record[:15])
        self.due = None if after == b"-" else max(self.sent + int(after), int(at))
        self.priority = int(priority)
        end_queue, end_task = int(queue), int(queue) + int(task)
        self.queue = texts[:end_queue].decode()
        self.task = texts[end_queue:end_task].decode()
        self.topic = texts[end_task : end_task + int(topic)].decode()
