"""What a command says: results on stdout, for people or as one JSON value; reasons on stderr, one line each."""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import Any

import msgspec

from culm.outcome import ENDINGS, FINAL, Cancelled, Expired, Failed, Lost, Outcome, Succeeded

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


def plain(data: bytes) -> Any:
    """A stored result as plain data."""
    return msgspec.msgpack.decode(data)


def described(outcome: Outcome) -> dict[str, Any]:
    """An outcome for machines."""
    match outcome:
        case Succeeded(value=data):
            return {"outcome": "succeeded", "result": plain(data)}
        case Failed(fault=fault):
            return {"outcome": "failed", "error": {"type": fault.type, "message": fault.message, "trace": fault.trace}}
        case Cancelled(reason=why) | Expired(reason=why) | Lost(reason=why):
            return {"outcome": ENDINGS[type(outcome)], "reason": why}
        case _:
            return {"outcome": type(outcome).__name__.lower(), **msgspec.to_builtins(_fields(outcome))}


def _fields(outcome: Outcome) -> dict[str, Any]:
    assert not isinstance(outcome, FINAL)
    return {name: getattr(outcome, name) for name in outcome.__struct_fields__}
