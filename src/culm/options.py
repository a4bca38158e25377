"""The options of a job, as users write them (`using(delay=60, priority=9)`) and as they travel. Checked once, here."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, TypedDict

from msgspec import Struct
from msgspec.structs import replace

from culm.duration import Seconds, maybe_ms, to_ms
from culm.job import DEFAULT_KEEP_MS, DEFAULT_PRIORITY, RetrySpec
from culm.retry import Retry, as_retry

MAX_NAME_CHARS = 200
MAX_HEADERS_CHARS = 8_000


class TaskOptions(TypedDict, total=False):
    """What a task may set for all of its jobs; durations in seconds, as a number or a timedelta."""

    queue: str
    priority: int  # 0-9, the highest first; 5 unless told
    delay: Seconds  # not claimable before so long after the send
    expires: Seconds | None  # must start within so long after the send
    timeout: Seconds | None  # of each attempt
    deadline: Seconds | None  # of the whole job, from the send
    retry: Retry | int | None  # an int is `Retry(times)`
    keep: Seconds  # how long its end is remembered; 0: gone with the commit


class JobOptions(TaskOptions, total=False):
    """What one job may set besides."""

    at: datetime  # not claimable before this instant of the store's clock; needs a time zone
    id: str  # the same id is the same job, however often it is sent
    topic: str  # inside a task: the job's end is recorded as an event under this topic
    headers: dict[str, str]  # `current().headers` shows them
    now: Literal[True]  # inside a task: leave at once instead of with the task's commit


class Options(Struct, frozen=True, kw_only=True):
    """Checked options, ready to become a job."""

    queue: str = "default"
    priority: int = DEFAULT_PRIORITY
    after_ms: int = 0
    at_ms: int | None = None
    expires_ms: int | None = None
    timeout_ms: int | None = None
    deadline_ms: int | None = None
    keep_ms: int = DEFAULT_KEEP_MS
    retry: RetrySpec | None = None
    id: str | None = None
    topic: str = ""
    headers: dict[str, str] = {}
    now: bool = False


def changed(options: Options, given: dict[str, Any], allowed: type[TaskOptions]) -> Options:
    """`options` with the given ones set. Raises TypeError (unknown, or wrong type) and ValueError (out of range)."""
    fields: dict[str, Any] = {}
    for name, value in given.items():
        if name not in allowed.__annotations__:
            raise TypeError(_unknown(name, allowed))
        fields |= _CHECKS[name](value)
    if "delay" in given and "at" in given:
        raise ValueError("delay and at exclude each other; give one of them")
    return replace(options, **fields)


def check_name(value: object, what: str) -> str:
    """A queue, task, topic or id: 1 to 200 printable characters without spaces or `~`."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, got {value!r}")
    if not 0 < len(value) <= MAX_NAME_CHARS or not value.isprintable() or " " in value or "~" in value:
        raise ValueError(f"{what} must be 1 to {MAX_NAME_CHARS} printable characters without spaces or '~', got {value[:60]!r}")
    return value


def check_process(runs_in: object, memory_mb: object) -> None:
    """Raises TypeError, ValueError."""
    if runs_in not in (None, "process"):
        raise ValueError(f'runs_in must be "process" or left out, got {runs_in!r}')
    if memory_mb is None:
        return
    if runs_in is None:
        raise ValueError('memory_mb limits a process; say runs_in="process", too')
    if isinstance(memory_mb, bool) or not isinstance(memory_mb, int):
        raise TypeError(f"memory_mb must be a whole number of MiB, got {memory_mb!r}")
    if not 32 <= memory_mb <= 1 << 24:
        raise ValueError(f"memory_mb must be from 32 to 16,777,216 MiB, got {memory_mb}")


def printable(text: str) -> str:
    r"""The text as UTF-8 can carry it: half a surrogate pair, as in the name of a badly encoded file, becomes `\udc80`."""
    return text.encode("utf-8", "backslashreplace").decode()


def _unknown(name: str, allowed: type[TaskOptions]) -> str:
    near = difflib.get_close_matches(name, allowed.__annotations__, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(sorted(allowed.__annotations__))}"
    return f"unknown option {name!r}; {hint}"


def _priority(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"priority must be a whole number from 0 to 9, got {value!r}")
    if not 0 <= value <= 9:
        raise ValueError(f"priority must be from 0 to 9 (the highest first), got {value}")
    return value


def _positive_ms(value: Seconds | None, name: str) -> int | None:
    ms = maybe_ms(value, name)
    if ms == 0:
        raise ValueError(f"{name} must be more than 0 seconds, got {value!r}; None means no limit")
    return ms


def _instant(value: object) -> int:
    if not isinstance(value, datetime):
        raise TypeError(f"at must be a datetime with a time zone, got {value!r}")
    if value.tzinfo is None:
        raise ValueError(f"at must have a time zone, got {value!r}; say datetime(..., tzinfo=timezone.utc)")
    return max(0, round(value.timestamp() * 1000))


def _retry(value: Retry | int | None) -> RetrySpec:
    if value is not None and (isinstance(value, bool) or not isinstance(value, Retry | int)):
        raise TypeError(f"retry must be a Retry, a whole number or None, got {value!r}")
    return as_retry(value).spec()


def _topic(value: object) -> str:
    name = check_name(value, "topic")
    if name.startswith("done/"):
        raise ValueError(f"topic must not start with 'done/', got {name!r}: those topics are culm's own")
    return name


def _headers(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
        raise TypeError(f"headers must be a dict of str to str, got {value!r}")
    if any(printable(k + v) != k + v for k, v in value.items()):
        raise ValueError(f"headers must be text that UTF-8 can carry, got {value!r}")
    if sum(len(k) + len(v) for k, v in value.items()) > MAX_HEADERS_CHARS:
        raise ValueError(f"headers may take {MAX_HEADERS_CHARS:,} characters together; pass what is larger as an argument")
    return dict(value)


def _now(value: object) -> bool:
    if value is not True:
        raise TypeError(f"now can only be True, got {value!r}; leave it out instead")
    return True


_CHECKS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "queue": lambda v: {"queue": check_name(v, "queue")},
    "priority": lambda v: {"priority": _priority(v)},
    "delay": lambda v: {"after_ms": to_ms(v, "delay"), "at_ms": None},
    "at": lambda v: {"at_ms": _instant(v), "after_ms": 0},
    "expires": lambda v: {"expires_ms": _positive_ms(v, "expires")},
    "timeout": lambda v: {"timeout_ms": _positive_ms(v, "timeout")},
    "deadline": lambda v: {"deadline_ms": _positive_ms(v, "deadline")},
    "keep": lambda v: {"keep_ms": to_ms(v, "keep")},
    "retry": lambda v: {"retry": _retry(v)},
    "id": lambda v: {"id": check_name(v, "id")},
    "topic": lambda v: {"topic": _topic(v)},
    "headers": lambda v: {"headers": _headers(v)},
    "now": lambda v: {"now": _now(v)},
}
