"""The values whose bytes are pinned: everything that lies in a store's rows, or travels between versions of culm."""

from __future__ import annotations

from msgspec import Struct

from culm.commit import Event, Held, Record, Trigger
from culm.envelope import Encrypted, Signed, Stored
from culm.job import Delivery, Job, RetrySpec
from culm.outcome import Cancelled, Expired, Failed, Fault, Lost, Released, Retried, Snoozed, Succeeded, Suspended
from culm.store import Hint, Load, WorkerInfo
from culm.stores.partitioned.crossing import BODY, Body, Parcel

MINIMAL = Job(id="r", task="t")
FULL = Job(
    id="r~a",
    task="mail.send",
    args=b"\x92\x01\xa1x",
    queue="mail",
    priority=9,
    after_ms=None,
    at_ms=1_700_000_000_000,
    expires_ms=300_000,
    timeout_ms=30_000,
    deadline_ms=60_000,
    keep_ms=0,
    retry=RetrySpec(5, 1_000, 300_000),
    topic="ended",
    reads=("paid", "packed"),
    reply_to="calls/1",
    headers={"traceparent": "00-ab"},
)

LOAD = Load("a", 2, 60_000, 120, 90_000, 40, 8_000)
GROWN = {"worker"}  # types to whose end was added since: older bytes are read still, and are how today's begin
WAITS = Trigger("r~join", "", (("open", 1),), 1)
PARCEL = Parcel(3, (MINIMAL,), (Event("", "said", "x"),), (WAITS,), (Record("r", 3, b"\x07"),), ("q",))

SAMPLES: dict[str, Struct] = {
    "job-minimal": MINIMAL,
    "job-full": FULL,
    "delivery-minimal": Delivery(MINIMAL, "w/1"),
    "delivery-full": Delivery(FULL, "w/1", 3, 2, 7, 1_234, "not a job"),
    "succeeded": Succeeded(),
    "succeeded-value": Succeeded(b"\x93\x01\x02\x03"),
    "failed": Failed(Fault("ValueError", "no", "line 1")),
    "cancelled": Cancelled("asked to"),
    "expired": Expired("too late"),
    "lost": Lost("three strikes"),
    "retried": Retried(800, Fault("OSError")),
    "snoozed": Snoozed(600),
    "suspended": Suspended(),
    "suspended-for": Suspended(500),
    "released": Released(),
    "released-for": Released(900),
    "event": Event("r", "paid", "order-1", b"\x07"),
    "trigger": Trigger("r~join", "r", (("paid", 1), ("packed", 2)), 2),
    "record": Record("r", 3, b"\x07"),
    "held": Held("r", "w/1"),
    "worker": WorkerInfo("w1", "host", 7, ("a", "b"), ("t", "u"), 8, 3, 99, 1_700_000_000_000),
    "worker-loads": WorkerInfo(
        "w1", "host", 7, ("a", "b"), ("t",), 8, 3, 99, 1_700_000_000_000, 10_000, (LOAD, Load("b")), (("r", 70_000), ("r~a", 1_000))
    ),
    "load": LOAD,
    "signed": Signed("2025-06", bytes(range(32)), b"\x91\x01"),
    "encrypted": Encrypted("2025-06", bytes(range(28)), b"\x00\xff"),
    "stored": Stored(bytes(range(32)), 70_000),
    "stored-in-a-folder": Stored(bytes(range(32)), 70_000, "folder"),
    "parcel": PARCEL,
    "crossing": Body(BODY, (Parcel(0, cancel=("q",)),)),
    "relay": Body(BODY, (PARCEL,), WAITS),
    "hint": Hint("calls/1", "progress", "r", b"\x92\x01\x02"),
}
