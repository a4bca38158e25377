"""culm runs Python functions somewhere else, reliably: in this process, in worker processes, or on a fleet.

Start with `App`; `docs/architecture.md` is the map.
"""

from culm.app import App
from culm.current import Attempt, ReadEvent, current, emit
from culm.dead import DeadLetter, DeadLetters
from culm.errors import (
    ConfigError,
    CulmError,
    DuplicateTask,
    IdConflict,
    JobError,
    NotAuthentic,
    NotInTask,
    PartlySent,
    PayloadMissing,
    Reject,
    ResultExpired,
    ResultPending,
    RetryLater,
    StoreError,
    StoreFull,
    StoreUnavailable,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskLost,
    TimedOut,
    TooManyEffects,
    TreeGrows,
    UnknownTask,
)
from culm.handle import Handle, Progress
from culm.job import Delivery
from culm.keys import Keys
from culm.middleware import Middleware, Next
from culm.outcome import Cancelled, Expired, Failed, Fault, Lost, Outcome, Released, Retried, Snoozed, Succeeded, Suspended
from culm.payload import Offload
from culm.retry import Retry
from culm.task import AsyncTask, Bound, Task, when

__version__ = "0.1.0"

__all__ = [
    "App",
    "AsyncTask",
    "Attempt",
    "Bound",
    "Cancelled",
    "ConfigError",
    "CulmError",
    "DeadLetter",
    "DeadLetters",
    "Delivery",
    "DuplicateTask",
    "Expired",
    "Failed",
    "Fault",
    "Handle",
    "IdConflict",
    "JobError",
    "Keys",
    "Lost",
    "Middleware",
    "Next",
    "NotAuthentic",
    "NotInTask",
    "Offload",
    "Outcome",
    "PartlySent",
    "PayloadMissing",
    "Progress",
    "ReadEvent",
    "Reject",
    "Released",
    "ResultExpired",
    "ResultPending",
    "Retried",
    "Retry",
    "RetryLater",
    "Snoozed",
    "StoreError",
    "StoreFull",
    "StoreUnavailable",
    "Succeeded",
    "Suspended",
    "Task",
    "TaskCancelled",
    "TaskExpired",
    "TaskFailed",
    "TaskLost",
    "TimedOut",
    "TooManyEffects",
    "TreeGrows",
    "UnknownTask",
    "__version__",
    "current",
    "emit",
    "when",
]
