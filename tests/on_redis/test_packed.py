"""What a send that is alone writes to its socket is the command that any other would write."""

from __future__ import annotations

import pytest

from culm.commit import Commit, Event, Held
from culm.job import Job
from culm.stores.redis import wire


def job(**fields: object) -> Job:
    return Job(**{"id": "01a2", "task": "shop.charge", "args": b"\x91\x01", "timeout_ms": 30_000, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("channel", ["", "told:abc"])
@pytest.mark.parametrize(
    "sent",
    [
        job(),
        job(id="ключ\n$3"),
        job(queue="ocio ñ", priority=9),
        job(after_ms=0, at_ms=1_800_000_000_000),
        job(after_ms=None),
        job(args=b"\x91\xc4\xff" + b"\r\n" * 127 + b"x"),
        job(headers={"traceparent": "00-1"}),
    ],
)
def test_the_words_of_one_job_are_those_of_any_batch(sent: Job, channel: str) -> None:
    commits = [Commit(send=(sent,))]
    packed, sending = wire.packed_one(commits, channel), wire.sending(commits, channel)
    assert packed is not None
    assert sending is not None
    assert sending.script == "send_one"
    assert b"*%d\r\n%b" % (len(sending.words), packed) == wire.pack(tuple(sending.words))


@pytest.mark.parametrize(
    "commits",
    [
        [],
        [Commit()],
        [Commit(send=(job(), job(id="b")))],
        [Commit(send=(job(),)), Commit(send=(job(id="b"),))],
        [Commit(send=(job(),), fence=Held("a", "w/1"))],
        [Commit(send=(job(),), cancel=("a",))],
        [Commit(send=(job(),), emit=(Event("a", "t", "k", b""),))],
        [Commit(send=(job(id="a~b"),))],
        [Commit(send=(job(topic="paid"),))],
        [Commit(send=(job(args=b"\x91\xc6\0\0\x80\0" + bytes(0x8000)),))],
    ],
)
def test_what_is_not_one_plain_job_goes_another_way(commits: list[Commit]) -> None:
    assert wire.packed_one(commits, "") is None
