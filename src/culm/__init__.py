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
    NotInTask,
    PartlySent,
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
    UnknownTask,
)
from culm.handle import Handle, Progress
from culm.outcome import Cancelled, Expired, Failed, Fault, Lost, Succeeded
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
    "DuplicateTask",
    "Expired",
    "Failed",
    "Fault",
    "Handle",
    "IdConflict",
    "JobError",
    "Lost",
    "NotInTask",
    "PartlySent",
    "Progress",
    "ReadEvent",
    "Reject",
    "ResultExpired",
    "ResultPending",
    "Retry",
    "RetryLater",
    "StoreError",
    "StoreFull",
    "StoreUnavailable",
    "Succeeded",
    "Task",
    "TaskCancelled",
    "TaskExpired",
    "TaskFailed",
    "TaskLost",
    "TimedOut",
    "TooManyEffects",
    "UnknownTask",
    "__version__",
    "current",
    "emit",
    "when",
]
