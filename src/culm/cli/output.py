"""What a command says: results on stdout, for people or as one JSON value; reasons on stderr, one line each."""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import Any, assert_never

import msgspec

from culm.envelope import is_wrapped
from culm.outcome import ENDINGS, Cancelled, Expired, Failed, Fault, Lost, Outcome, Released, Retried, Snoozed, Succeeded, Suspended

_encode = msgspec.json.Encoder(enc_hook=repr).encode


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIG = 78
    INTERRUPTED = 130


class Quit(Exception):
    """Ends the command with that line on stderr and that code."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say_json(value: Any) -> None:
    say(to_json(value))


def to_json(value: Any) -> str:
    """Anything that a result can be; what JSON has no word for, as its repr."""
    try:
        return _encode(value).decode()
    except TypeError:  # a key that JSON cannot have
        return _encode(repr(value)).decode()


def warn(text: str) -> None:
    sys.stderr.write(" ".join(text.split()) + "\n")
    sys.stderr.flush()


def described(outcome: Outcome) -> dict[str, Any]:
    """An outcome for machines."""
    match outcome:
        case Succeeded(value=data):
            if is_wrapped(data):  # only the app can open it
                return {"outcome": "succeeded", "result": "(sealed, or stored apart; `culm result` reads it)"}
            return {"outcome": "succeeded", "result": msgspec.msgpack.decode(data)}
        case Failed(fault=fault):
            return {"outcome": "failed", "error": _fault(fault)}
        case Cancelled(reason=why) | Expired(reason=why) | Lost(reason=why):
            return {"outcome": ENDINGS[type(outcome)], "reason": why}
        case Retried(after_ms=after, fault=fault):
            return {"outcome": "retried", "after_ms": after, "error": _fault(fault)}
        case Snoozed(after_ms=after_ms) | Suspended(after_ms=after_ms) | Released(after_ms=after_ms):
            return {"outcome": type(outcome).__name__.lower(), "after_ms": after_ms}
        case _:
            assert_never(outcome)


def _fault(fault: Fault) -> dict[str, str]:
    return {"type": fault.type, "message": fault.message, "trace": fault.trace}
