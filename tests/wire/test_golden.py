"""The wire contract: the bytes of yesterday mean the same today, and what is newer is left to the newer."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from culm.commit import Event, Held, Record, Trigger
from culm.envelope import Encrypted, Signed, Stored
from culm.errors import StoreError
from culm.job import PLAIN, WIRE, Delivery, Job, as_delivered, decode_job, encode_job
from culm.outcome import Final, NotFinal, Outcome, decode_outcome, encode_outcome
from culm.store import Hint, Load, WorkerInfo
from culm.stores.partitioned.crossing import Body, Parcel
from tests.wire.samples import FULL, GROWN, MINIMAL, SAMPLES

GOLDEN = Path(__file__).parent / "golden"
TYPES = (
    *(Signed, Encrypted, Stored, Job, Delivery, Event, Trigger, Record, Held, WorkerInfo, Load, Hint, Parcel, Body),
    *get_args(Final),
    *get_args(NotFinal),
)


# What was once written is read for ever: a file of `golden/` never changes. If this number must, a release raises `culm.job.WIRE`,
# keeps the old files and what reads them, and adds new ones beside; a new sample adds its file, and its number here.
PINNED_WIRE = 2
PINNED = "da61c7c3bf51a521"


def sums() -> str:
    lines = "".join(f"{p.name} {hashlib.sha256(p.read_bytes()).hexdigest()}\n" for p in sorted(GOLDEN.iterdir()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def test_golden_files_never_change_without_a_new_version() -> None:
    assert (WIRE, sums()) == (PINNED_WIRE, PINNED)


def test_no_commit_has_ever_changed_or_removed_a_golden_file() -> None:
    log = ["git", "log", "--diff-filter=MDRT", "--no-merges", "--format=%h", "--", str(GOLDEN)]
    asked = subprocess.run(log, cwd=GOLDEN, capture_output=True, text=True, check=False)
    if asked.returncode:
        pytest.skip("this is no clone")
    assert asked.stdout.split() == [], "golden files were changed by these commits: append members, or raise WIRE and add new files"


def golden(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text(encoding="ascii"))


def test_every_golden_file_has_a_sample_and_every_type_too() -> None:
    assert {p.stem for p in GOLDEN.iterdir()} == set(SAMPLES)
    assert {type(v) for v in SAMPLES.values()} == set(TYPES)


@pytest.mark.parametrize("name", [n for n in SAMPLES if n not in GROWN])
def test_a_value_is_written_as_it_always_was(name: str) -> None:
    assert msgspec.msgpack.encode(SAMPLES[name]).hex(" ") == golden(name).hex(" ")


@pytest.mark.parametrize("name", GROWN)
def test_a_value_whose_type_has_grown_begins_as_it_always_did(name: str) -> None:
    before, now = (msgspec.msgpack.decode(data, type=list[msgspec.Raw]) for data in (golden(name), msgspec.msgpack.encode(SAMPLES[name])))
    assert len(now) > len(before)
    assert [bytes(member) for member in now[: len(before)]] == [bytes(member) for member in before]


@pytest.mark.parametrize("name", SAMPLES)
def test_bytes_are_read_as_they_always_were(name: str) -> None:
    value = SAMPLES[name]
    assert msgspec.msgpack.decode(golden(name), type=type(value)) == value


@pytest.mark.parametrize("name", [n for n, v in SAMPLES.items() if isinstance(v, get_args(Final) + get_args(NotFinal))])
def test_an_outcome_is_told_by_its_tag(name: str) -> None:
    assert decode_outcome(golden(name)) == SAMPLES[name]
    assert encode_outcome(SAMPLES[name]) == golden(name)
    assert msgspec.msgpack.decode(golden(name), type=Outcome) == SAMPLES[name]


@pytest.mark.parametrize("name", [n for n in SAMPLES if n not in GROWN])
def test_members_that_a_later_version_appends_are_ignored(name: str) -> None:
    value = SAMPLES[name]
    members = msgspec.msgpack.decode(golden(name), type=list[msgspec.Raw])
    longer = msgspec.msgpack.encode([*members, "new", {"and": [1, 2]}])
    assert longer != golden(name)
    assert msgspec.msgpack.decode(longer, type=type(value)) == value


def test_a_job_of_an_older_version_lacks_what_was_appended_since() -> None:
    members = msgspec.msgpack.decode(golden("job-minimal"), type=list[msgspec.Raw])
    assert decode_job(msgspec.msgpack.encode(members[:3]), job_id="r") == MINIMAL


def test_a_job_goes_through_a_row_unchanged() -> None:
    assert as_delivered(encode_job(FULL), job_id=FULL.id, queue="mail") == (FULL, "")


@pytest.mark.parametrize("rest", [["r", "t"], [{"id": "r"}], []])
def test_a_job_of_a_newer_version_is_not_broken_only_not_for_us(rest: list[object]) -> None:
    job, broken = as_delivered(msgspec.msgpack.encode([WIRE + 1, *rest]), job_id="r", queue="mail")
    assert (job.v, job.id, broken) == (WIRE + 1, "r", "")
    assert job.v > WIRE


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", b"\x93\x01\xa1r\x07", b"\x93\x01\xa1r\xa1\xff", b"\x91" * 5000, encode_job(FULL)])
def test_bytes_that_are_not_the_rows_job_reach_a_worker_with_the_reason(data: bytes) -> None:  # I33
    job, broken = as_delivered(data, job_id="r", queue="mail")
    assert (job.id, job.queue, job.v) == ("r", "mail", PLAIN)
    assert "'r'" in broken
    with pytest.raises(StoreError, match="'r'"):
        decode_job(data, job_id="r")
