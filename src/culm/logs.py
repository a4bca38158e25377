"""Log lines that say which job they belong to: a filter that every record inherits from, as text or as one JSON object a line.

    handler.addFilter(JobFields())
    handler.setFormatter(JsonLines())
    with_fields(order=42)    # every line of this job from here on, also in threads and tasks that it starts

`culm worker --log-format json|text` does the first two. The fields are those of the job that runs in the context of the record:
`job_id`, `task`, `attempt`. Arguments are never among them.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec

from culm.current import running
from culm.options import printable

LogFormat: TypeAlias = Literal["text", "json"]

OWN = frozenset({"time", "level", "logger", "message", "error", "job_id", "task", "attempt"})  # what a line says by itself

_fields: ContextVar[dict[str, Any] | None] = ContextVar("culm_log_fields", default=None)
_plain = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName", "job_fields"}
_encode = msgspec.json.Encoder(enc_hook=lambda value: printable(repr(value))).encode


def with_fields(**fields: Any) -> None:
    """Let every line of this context carry these too: inside a task, the lines of this job and of nobody else.

    Raises ValueError when a name is one that lines have by themselves.
    """
    if taken := sorted(OWN & fields.keys()):
        raise ValueError(f"log lines have {', '.join(taken)} by themselves; choose another name")
    _fields.set({**(_fields.get() or {}), **fields})


class JobFields(logging.Filter):
    """Gives each record `job_fields`: which job it belongs to, and what `with_fields` said. Lets every record pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        attempt = running()
        found: dict[str, Any] = {}
        if attempt is not None:
            found = {"job_id": attempt.id, "task": attempt.job.task, "attempt": attempt.attempt}
        record.job_fields = found | (_fields.get() or {})
        return True


class TextLines(logging.Formatter):
    """Time, level, message, and behind it the fields, if there are any."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name that logging calls
        fields = getattr(record, "job_fields", None)
        line = super().formatMessage(record)
        return f"{line} [{' '.join(f'{name}={_word(value)}' for name, value in fields.items())}]" if fields else line


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, the fields, what `extra=` said, and `error` with its trace."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": printable(record.getMessage()),
        }
        line |= getattr(record, "job_fields", {})
        line |= {name: value for name, value in record.__dict__.items() if name not in _plain and name not in line}
        if record.exc_info:
            line["error"] = printable(self.formatException(record.exc_info))
        try:
            return _encode(line).decode()
        except (TypeError, ValueError, RecursionError):  # a key that JSON cannot have, or half a surrogate
            return _encode({name: printable(str(value)) for name, value in line.items()}).decode()


def formatter(kind: LogFormat) -> logging.Formatter:
    return JsonLines() if kind == "json" else TextLines()


def _word(value: object) -> str:
    """One word, quoted if it is not one by itself: a value must not look like another field."""
    text = printable(str(value))
    return text if text and text.isprintable() and not set(text) & set(" =[]\"'") else repr(text)
