"""Decisions, pure: what an attempt came to, from what is known of it. No I/O, no clock, no randomness of its own.

The worker asks here, and commits what it is told.
"""

from __future__ import annotations

import traceback

from culm.duration import to_ms
from culm.errors import Reject, RetryLater
from culm.job import WIRE, Delivery, Job
from culm.options import printable
from culm.outcome import Cancelled, Expired, Failed, Fault, Lost, Outcome, Released, Retried
from culm.retry import Retry, pause_ms

UNKNOWN_AGE_MS = 600_000  # a job that no worker here understands is offered to others for so long, then it is a dead letter
UNKNOWN_PAUSE_MS = 5_000  # how long this worker leaves it to others between two offers
MAX_TRACE_CHARS = 8_000
MAX_MESSAGE_CHARS = 2_000


def before_start(delivery: Delivery, *, knows_task: bool) -> Outcome | None:
    """What a delivery comes to without running user code; None: run it.

    `Runner.run` does not ask where none of these can be so: what is added here is added there.
    """
    job = delivery.job
    if delivery.broken:
        return Lost(delivery.broken)
    if job.expires_ms is not None and delivery.age_ms > job.expires_ms:
        return Expired(f"it did not start within {job.expires_ms} ms")
    if job.deadline_ms is not None and delivery.age_ms > job.deadline_ms:
        return Expired(f"it did not end within {job.deadline_ms} ms")
    if job.v > WIRE:
        return _not_ours(delivery, f"it has wire version {job.v}, and no worker that reads it took it within {UNKNOWN_AGE_MS // 1000} s")
    if not knows_task:
        return _not_ours(
            delivery, f"no worker of queue {job.queue!r} that knows task {job.task!r} took it within {UNKNOWN_AGE_MS // 1000} s"
        )
    return None


def _not_ours(delivery: Delivery, reason: str) -> Outcome:
    return Lost(reason) if delivery.age_ms > UNKNOWN_AGE_MS else Released(UNKNOWN_PAUSE_MS)


class Told(Exception):
    """An error that was raised in another process, as far as it travels."""

    def __init__(self, fault: Fault, *, counts: bool) -> None:
        super().__init__(f"{fault.type}: {fault.message}")
        self.fault = fault
        self.counts = counts  # the task's policy retries it


def on_error(delivery: Delivery, error: BaseException, policy: Retry, *, ran_ms: int, draw: float) -> Outcome:
    """What an attempt comes to that raised.

    Args:
        policy: the task's own; a policy that travels with the job overrides its numbers.
        ran_ms: how long the attempt ran, so that no retry is planned beyond the deadline.
        draw: random, from 0 to 1, for the pause.
    """
    job, fault = delivery.job, fault_of(error)
    if isinstance(error, Reject):
        return Failed(fault)
    spec = job.retry or policy.spec()
    steered = isinstance(error, RetryLater)
    if delivery.attempt > spec.times or not (steered or _counts(error, policy)):
        return Failed(fault)
    after_ms = pause_ms(spec, delivery.attempt, draw=draw)
    if isinstance(error, RetryLater) and error.after is not None:
        try:
            after_ms = to_ms(error.after, "RetryLater after")
        except (TypeError, ValueError) as e:
            return Failed(fault_of(e))
    if job.deadline_ms is not None and delivery.age_ms + ran_ms + after_ms > job.deadline_ms:
        return Failed(fault)  # the retry would come too late: fail with the reason that is known
    return Retried(after_ms, fault)


def _counts(error: BaseException, policy: Retry) -> bool:
    return error.counts if isinstance(error, Told) else isinstance(error, policy.on)


def on_timeout(delivery: Delivery, policy: Retry, *, ran_ms: int, draw: float) -> Outcome:
    """An attempt that ran longer than its `timeout`, or beyond the job's `deadline`."""
    job = delivery.job
    if job.deadline_ms is not None and delivery.age_ms + ran_ms >= job.deadline_ms:
        return Expired(f"it did not end within {job.deadline_ms} ms")
    return on_error(
        delivery,
        TimeoutError(f"attempt {delivery.attempt} ran longer than its timeout of {job.timeout_ms} ms"),
        policy,
        ran_ms=ran_ms,
        draw=draw,
    )


def on_conflict() -> Outcome:
    """An attempt whose effects the store refused: another run would send the same."""
    return Failed(Fault("IdConflict", "it sent a job under an id that belongs to a job of another task"))


def on_cancel() -> Outcome:
    return Cancelled("while it ran")


def time_left_ms(delivery: Delivery) -> int | None:
    """How long the attempt may run; None: as long as it likes."""
    job: Job = delivery.job
    left = None if job.deadline_ms is None else max(0, job.deadline_ms - delivery.age_ms)
    if job.timeout_ms is None:
        return left
    return job.timeout_ms if left is None else min(left, job.timeout_ms)


def fault_of(error: BaseException) -> Fault:
    """The error made inert: no live object, no locals."""
    if isinstance(error, Told):
        return error.fault
    try:
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__, limit=-20))
    except Exception as e:  # noqa: BLE001  # what the error carries may be anything; the job must still end
        trace = f"(its trace could not be made: {type(e).__name__})"
    name = (
        type(error).__qualname__
        if type(error).__module__ in ("builtins", "culm.errors")
        else f"{type(error).__module__}.{type(error).__qualname__}"
    )
    return Fault(printable(name), printable(_text(error)[:MAX_MESSAGE_CHARS]), printable(trace[-MAX_TRACE_CHARS:]))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as e:  # noqa: BLE001  # a user's __str__ may raise anything; the job must still end
        return f"(its text could not be made: {type(e).__name__})"
