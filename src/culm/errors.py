"""Every error that culm raises, each saying what went wrong, which thing, and what to do about it.

All derive from CulmError, and carry data beside the sentence, so that nobody parses messages. A driver's own exception never
passes a store: it is translated to StoreUnavailable or StoreError there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from culm.outcome import Fault


class CulmError(Exception):
    """Any error that culm itself raises."""


# -- configuration: found before anything runs; the command line ends with 78 --------------------------------------------------


class ConfigError(CulmError):
    """An address, option or file that cannot work. Nothing was changed."""


class DuplicateTask(ConfigError):
    """Two functions were registered under one task name."""


class UnknownTask(CulmError):
    """No task of that name is registered here."""


# -- the store --------------------------------------------------------------------------------------------------------------


class StoreError(CulmError):
    """The store refused something for a reason that repeating cannot mend."""


class StoreFull(StoreError):
    """The store has no room for this. Nothing of it was written; once there is room again, the same succeeds."""


class StoreUnavailable(StoreError):
    """The store did not answer. What was asked may or may not have happened; asking again with the same ids is safe."""


class IdConflict(CulmError):
    """Another task already has a job under this id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job id {job_id!r} belongs to a job of another task; choose another id, or enqueue that task under it")
        self.job_id = job_id


class PartlySent(CulmError):
    """`enqueue_many` failed half-way; `sent` are the ids that were accepted, in order. The others may or may not have been."""

    def __init__(self, sent: list[str], cause: BaseException) -> None:
        super().__init__(f"{len(sent)} jobs were accepted before this: {cause}; give jobs ids of your own to make sending again safe")
        self.sent = sent


class TreeGrows(CulmError):
    """A tree started jobs faster, or for longer, than they were cancelled: `asked` were asked to stop, `left` had not ended at last."""

    def __init__(self, root: str, asked: list[str], left: list[str]) -> None:
        super().__init__(
            f"the tree of job {root} still grows: {len(asked):,} jobs were asked to stop, and {len(left):,} had not ended at last, such as "
            f"{left[0] if left else root}; stop what goes on starting them (pause its queue, or stop its workers), and cancel again"
        )
        self.root = root
        self.asked = asked
        self.left = left


class NotAuthentic(CulmError):
    """A message is not sealed as this app's keys demand. Nothing of it was decoded."""


class PayloadMissing(CulmError):
    """Arguments or a result were stored apart from their job, and are not there, or not what was stored."""


# -- a job's ending, as its caller sees it -----------------------------------------------------------------------------------


class JobError(CulmError):
    """The job ended, but not with a result."""

    def __init__(self, job_id: str, message: str) -> None:
        super().__init__(f"job {job_id}: {message}")
        self.job_id = job_id


class TaskFailed(JobError):
    """The task raised, and its retry policy is used up. `fault` has the type, message and trace of the last error."""

    def __init__(self, job_id: str, fault: Fault) -> None:
        super().__init__(job_id, f"failed with {fault.type}: {fault.message}")
        self.fault = fault


class TaskCancelled(JobError):
    """Somebody cancelled the job."""


class TaskExpired(JobError):
    """The job did not start within `expires`, or did not end within `deadline`."""


class TaskLost(JobError):
    """culm gave the job up (its bytes, or its task, are unknown everywhere); it is among the dead letters, with the reason."""


class ResultExpired(JobError):
    """No such job is known: it was never sent, or it ended longer than `keep` ago."""


class TimedOut(JobError):
    """The wait ended before the job did. The job goes on; ask again, or cancel it."""


class ResultPending(JobError):
    """The job leaves with the commit of the task that is running; its result cannot be awaited inside that task."""


# -- raised inside a task, to steer ---------------------------------------------------------------------------------------------


class Reject(CulmError):
    """Raise inside a task: fail now, without a retry; the job becomes a dead letter with this reason."""


class RetryLater(CulmError):
    """Raise inside a task: run it again `after` seconds from now. Consumes an attempt, whatever the error policy says.

    Args:
        after: seconds until the next attempt; None takes the policy's delay.
    """

    def __init__(self, message: str = "", *, after: float | None = None) -> None:
        super().__init__(message or "retry later")
        self.after = after


class ProcessDied(CulmError):
    """The process in which a `runs_in="process"` task ran died, for example of a fault in C code. It is retried as any error is."""


class TooManyEffects(CulmError):
    """One attempt may send, emit and await 10,000 things at most; let it enqueue tasks that enqueue the rest."""


class NotInTask(CulmError):
    """`current`, `emit` and `when` work inside a running task only."""
