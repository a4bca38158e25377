"""How a job lies in Redis: a record that is written once, and beside it short texts that the scripts change.

A record is a MessagePack array of four: when it was sent; `n`, 16 digits, which orders equal dues: 12 hexadecimal ones of the batch, 4
of its place therein; the head, a text with two bytes of length: ` after at priority keep`, the lengths of queue, task and topic, a line
end, these three, and the channel to tell of its end, if there is one; and the job as it travels. The server writes what precedes the
place, so many records in a row are decoded at once. rows.lua reads the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import msgspec
from msgspec import Struct

from culm.job import Job, as_delivered, encode_job

SENT, HEAD = slice(2, 10), 30  # where they lie, in bytes
MAX_PLACES = 0x10000
TOLD = "told:"  # how a channel to tell of ends begins
LARGE = 32_000  # bytes: such a record is counted by itself, so that a claim is not too large

Likeness: TypeAlias = "tuple[str, str, str, int | None, int | None, int, int]"  # what a head is made of

_MOST_HEADS = 1_000  # that are kept: most jobs are like others
PLACES = [b"%04x" % place for place in range(2_048)]  # more than a batch usually has


def likeness(job: Job) -> Likeness:
    return job.queue, job.task, job.topic, job.after_ms, job.at_ms, job.priority, job.keep_ms


def tail(job: Job, channel: str) -> bytes:
    """A record, but for what the server writes before it, of the only job of its batch."""
    return PLACES[0] + head_of(likeness(job), channel) + encode_job(job)


@lru_cache(_MOST_HEADS)
def head_of(like: Likeness, channel: str) -> bytes:
    after, at, priority, keep = like[3:]
    texts = [text.encode() for text in like[:3]]
    numbers = f" {'-' if after is None else after} {at or 0} {priority} {keep} {' '.join(str(len(text)) for text in texts)}\n".encode()
    head = numbers + b"".join(texts) + channel.encode()
    return b"\xda" + len(head).to_bytes(2, "big") + head


class Record(Struct, array_like=True, gc=False):
    sent: int
    n: str
    head: str
    job: Job


_decode_all = msgspec.msgpack.Decoder(list[Record]).decode


def read_records(names: list[str], records: list[bytes]) -> list[Record] | None:
    """What the records of these ids hold, all decoded at once. None: one of them is not what it should be."""
    try:
        found = _decode_all(b"\xdd" + len(names).to_bytes(4, "big") + b"".join(records))
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
        return None
    return found if [record.job.id for record in found] == names else None


def channels(records: Sequence[Record]) -> str | dict[str, str]:
    """Where to tell of their ends: of all, or by their ids; "": nobody asked for it."""
    heads = {record.head for record in records}
    if len(heads) == 1:
        return _channel_in(heads.pop())
    return {record.job.id: channel for record in records if (channel := _channel_in(record.head))} or ""


@lru_cache(_MOST_HEADS)
def _channel_in(head: str) -> str:
    line, _, texts = head.partition("\n")
    try:
        channel = texts.encode()[sum(map(int, line.split()[4:])) :].decode()
    except ValueError:  # hostile bytes
        return ""
    return channel if channel.startswith(TOLD) else ""


def read_record(name: str, record: bytes | None) -> tuple[Job, int, str]:
    """A job, when it was sent, and why its record is none ("": it is one)."""
    record = record or b""
    body = HEAD + int.from_bytes(record[HEAD - 2 : HEAD], "big")
    job, broken = as_delivered(record[body:], job_id=name, queue="")
    return job, int.from_bytes(record[SENT], "big"), broken


_NO_HEAD = b" 0 0 0 0 0 0 0\n"  # of hostile bytes: rows.lua says the same


class Head:
    """What a record says before its body."""

    __slots__ = ("due", "priority", "queue", "sent", "task", "topic")

    def __init__(self, record: bytes) -> None:
        self.sent = int.from_bytes(record[SENT], "big")
        try:
            self._read(record[HEAD:])
        except ValueError:
            self.sent = 0
            self._read(_NO_HEAD)

    def _read(self, head: bytes) -> None:
        line, _, texts = head.partition(b"\n")
        after, at, priority, _, queue, task, topic = line.split()
        self.due = None if after == b"-" else max(self.sent + int(after), int(at))
        self.priority = int(priority)
        end_queue, end_task = int(queue), int(queue) + int(task)
        self.queue = texts[:end_queue].decode()
        self.task = texts[end_queue:end_task].decode()
        self.topic = texts[end_task : end_task + int(topic)].decode()
