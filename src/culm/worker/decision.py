"""What the end of an attempt writes: with the next batch, or in the transaction that the task has open."""

from __future__ import annotations

from collections.abc import Callable

from culm import decide
from culm.commit import Commit, Held
from culm.current import Attempt, Effects
from culm.errors import StoreError, StoreUnavailable
from culm.outcome import FINAL, Outcome, Released, Succeeded
from culm.store import Transaction


def decision_of(attempt: Attempt, outcome: Outcome) -> Commit:
    """The attempt's one decision: what it sent and emitted leaves with a success, what a hook did with the end that it is for."""
    job, effects = attempt.job, attempt.effects
    fence = Held(job.id, attempt.delivery.lease)
    if effects is None:
        return Commit(fence=fence, outcome=outcome, keep_ms=job.keep_ms)
    leaving = effects if isinstance(outcome, Succeeded) or (attempt.before_hook is not None and type(outcome) in FINAL) else Effects()
    return Commit(
        fence=fence,
        outcome=outcome,
        keep_ms=job.keep_ms,
        send=tuple(leaving.send),
        emit=tuple(leaving.emit),
        triggers=tuple(leaving.triggers),
    )


async def end_in_transaction(
    attempt: Attempt, transaction: Transaction, outcome: Outcome, failed: Callable[[StoreError], Outcome]
) -> Outcome:
    """Commit the job's success with the rows that its task wrote, or undo them. Returns what is still to be posted, if `committed` is None.

    Args:
        failed: what the attempt comes to when its rows can never be committed.
    """
    if not isinstance(outcome, Succeeded):
        await transaction.roll_back()
        return outcome
    attempt.over = True
    try:
        answer = await transaction.commit(decision_of(attempt, outcome))
    except StoreUnavailable:
        return Released()  # if it was committed, the job has ended, and this changes nothing
    except StoreError as e:
        return failed(e)
    if answer == "conflict":
        return decide.on_conflict()
    attempt.committed = answer
    return outcome
