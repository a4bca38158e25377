"""Arguments and results as MessagePack, checked against the task's annotations. Data only: no pickle, no import by name.

A signature becomes a record type with one field per parameter, so binding, defaults and encoding run in C. What is encoded
is decoded again before it is sent: an argument that the worker would refuse is a TypeError at the caller, and names itself.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, Generic, NoReturn, TypeVar, get_type_hints

import msgspec

from culm.errors import ConfigError
from culm.job import MAX_PAYLOAD_BYTES
from culm.kinds import Kinds

R = TypeVar("R")

_NO_KEYWORDS: dict[str, Any] = {}  # shared: nobody changes it
Parameter = inspect.Parameter


class Signature(Generic[R]):
    """How calls of one function are written down and read back.

    Raises ConfigError when an annotation is no type that travels.
    """

    def __init__(self, fn: Callable[..., Any], *, task: str, kinds: Kinds, max_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self.task = task
        self._kinds, self._encode = kinds, kinds.encode
        self._max_bytes = max_bytes
        self._parameters = list(inspect.signature(fn).parameters.values())
        hints = _hints(fn, task)
        self.returns: Any = hints.pop("return", Any)
        self._variadic = any(p.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD) for p in self._parameters)
        self._nameless = any(p.kind is Parameter.POSITIONAL_ONLY for p in self._parameters)
        self._signature = inspect.signature(fn)
        self._record, self._names = _record_type(self._parameters, hints, task)
        self._decode = _decoder(self._record, task, "parameters", kinds).decode
        self._result = _decoder(self.returns, task, "result", kinds)
        self._positional = sum(1 for p in self._parameters if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD))
        types = [f.type for f in msgspec.structs.fields(self._record)]
        plain = len(types) == self._positional and not self._variadic
        # Most calls have all their arguments, by position: a tuple decodes twice as fast as a record that is then taken apart.
        self._decode_exactly = kinds.decoder(tuple.__class_getitem__(tuple(types))).decode if plain and types else None

    def encode_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """The arguments of one call as bytes. Raises TypeError (names task, parameter, expected, got) and ValueError (too large)."""
        if self._decode_exactly is not None and not kwargs and len(args) == self._positional:
            try:
                data = self._encode(args)
                if len(data) <= self._max_bytes:
                    self._decode_exactly(data)
                    return data
            except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
                pass  # what is wrong is said below
        try:
            by_python = self._variadic or (self._nameless and kwargs)  # a record would take a positional-only one by its name
            record = self._bind(args, kwargs) if by_python else self._record(*args, **kwargs)
        except TypeError as e:
            self._refuse_call(args, kwargs, e)
        try:
            data = self._encode(record)
        except (TypeError, ValueError, OverflowError, RecursionError) as e:
            self._refuse_value(record, str(e))
        if len(data) > self._max_bytes:
            raise ValueError(
                f"the arguments of {self.task} take {len(data):,} bytes; {self._max_bytes:,} are allowed: pass a reference instead"
            )
        try:
            self._decode(data)
        except msgspec.ValidationError as e:
            self._refuse_value(record, str(e))
        return data

    def decode_call(self, data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments to call the function with. Raises TypeError when the bytes do not fit the signature."""
        if self._decode_exactly is not None:
            try:
                return self._decode_exactly(data), _NO_KEYWORDS
            except msgspec.MsgspecError:
                pass  # shorter or longer than this signature: the record knows defaults
        try:
            record = self._decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
            raise TypeError(f"the arguments stored for {self.task} do not fit its signature: {self._naming(str(e))}") from e
        values = msgspec.structs.astuple(record)
        n = self._positional
        if n == len(values):
            return values, _NO_KEYWORDS
        if not self._variadic:
            return values[:n], dict(zip(self._names[n:], values[n:], strict=True))
        return self._spread(values)

    def encode_result(self, value: Any) -> bytes:
        """Raises TypeError (it cannot be encoded) or ValueError (too large); the job fails with it."""
        try:
            data = self._encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as e:
            raise TypeError(
                f"the result of {self.task} cannot be encoded: {e}; return builtins, dataclasses, Structs, enums or dates"
            ) from e
        if len(data) > self._max_bytes:
            raise ValueError(
                f"the result of {self.task} takes {len(data):,} bytes; {self._max_bytes:,} are allowed: return a reference instead"
            )
        return data

    def decode_result(self, data: bytes) -> R:
        """Raises TypeError when the bytes do not fit the return annotation."""
        try:
            value: R = self._result.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
            raise TypeError(f"the result stored for {self.task} does not fit its return type: {e}") from e
        return value

    def from_json(self, texts: list[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments given as JSON texts, `name=JSON` for keywords; decoded by the annotations. Raises TypeError."""
        names = {p.name for p in self._parameters if p.kind is not Parameter.POSITIONAL_ONLY}
        open_names = any(p.kind is Parameter.VAR_KEYWORD for p in self._parameters)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for text in texts:
            name, equals, rest = text.partition("=")
            keyword = bool(equals) and name.isidentifier() and (name in names or open_names)
            value = _json(rest if keyword else text)
            if keyword:
                kwargs[name] = value
            else:
                args.append(value)
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as e:
            raise TypeError(f"{self.task}: {e}; it takes {self._signature}") from e
        fields = {f.name: f.type for f in msgspec.structs.fields(self._record)}
        for name, value in bound.arguments.items():
            bound.arguments[name] = self._convert(name, value, fields[name])
        return bound.args, bound.kwargs

    # -- inside -------------------------------------------------------------------------------------------------------------

    def _convert(self, name: str, value: Any, kind: Any) -> Any:
        try:
            return self._kinds.convert(value, kind)
        except msgspec.ValidationError as e:
            raise TypeError(f"{self.task}: argument {name!r}: {e}, got {_short(value)}") from e

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bound = self._signature.bind(*args, **kwargs)
        return self._record(**bound.arguments)

    def _spread(self, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        by_name = dict(zip(self._names, values, strict=True))
        for p in self._parameters:
            value = by_name[p.name]
            if p.kind is Parameter.VAR_POSITIONAL:
                args += value
            elif p.kind is Parameter.VAR_KEYWORD:
                kwargs |= value
            elif p.kind is Parameter.KEYWORD_ONLY:
                kwargs[p.name] = value
            else:
                args.append(value)
        return tuple(args), kwargs

    def _refuse_call(self, args: tuple[Any, ...], kwargs: dict[str, Any], error: TypeError) -> NoReturn:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as e:
            raise TypeError(f"{self.task}: {e}; it takes {self._signature}") from None
        raise error

    def _refuse_value(self, record: Any, reason: str) -> NoReturn:
        """Name the parameter that does not travel, by trying them one by one."""
        for field in msgspec.structs.fields(self._record):
            value = getattr(record, field.name)
            try:
                self._kinds.decoder(field.type).decode(self._encode(value))
            except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as e:
                raise TypeError(f"{self.task}: argument {field.name!r}: {_sentence(e)}, got {_short(value)}") from None
        raise TypeError(f"{self.task}: {reason}")

    def _naming(self, message: str) -> str:
        """`$[1].street` means the second parameter."""
        return re.sub(r"`\$\[(\d+)\]", lambda m: f"`{self._names[int(m[1])]}" if int(m[1]) < len(self._names) else m[0], message)


def _hints(fn: Callable[..., Any], task: str) -> dict[str, Any]:
    try:
        return get_type_hints(fn, include_extras=True)
    except (NameError, TypeError) as e:
        raise ConfigError(f"task {task!r}: its annotations cannot be read: {e}; import what they name at module level") from e


def _record_type(parameters: list[inspect.Parameter], hints: dict[str, Any], task: str) -> tuple[type[msgspec.Struct], list[str]]:
    """A record with the positional parameters first, then the keyword-only ones, which is the order of the wire."""
    keyword = (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD)
    fields = [_field(p, hints.get(p.name, Any)) for p in parameters if p.kind not in keyword]
    named = [_field(p, hints.get(p.name, Any)) for p in parameters if p.kind in keyword]
    try:
        base = msgspec.defstruct("Arguments", fields, array_like=True, frozen=True, gc=False)
        record = msgspec.defstruct("Arguments", named, bases=(base,), array_like=True, frozen=True, gc=False, kw_only=True)
    except TypeError as e:
        raise ConfigError(f"task {task!r}: {e}") from e
    return record, list(record.__struct_fields__)


def _field(p: inspect.Parameter, kind: Any) -> tuple[Any, ...]:
    if p.kind is Parameter.VAR_POSITIONAL:
        return (p.name, tuple[kind, ...], ())
    if p.kind is Parameter.VAR_KEYWORD:
        return (p.name, dict[str, kind], msgspec.field(default_factory=dict))
    if p.default is Parameter.empty:
        return (p.name, kind)
    if p.default is None:
        return (p.name, kind | None if kind is not Any else Any, None)
    default = p.default
    return (p.name, kind, msgspec.field(default_factory=lambda: default))


def _decoder(kind: Any, task: str, what: str, kinds: Kinds) -> msgspec.msgpack.Decoder[Any]:
    try:
        return kinds.decoder(kind)
    except (TypeError, msgspec.MsgspecError) as e:
        raise ConfigError(f"task {task!r}: its {what} cannot travel: {_sentence(e)}") from e


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as e:
        raise TypeError(f"{_short(text)} is not JSON ({e}); quote a text twice: '\"ada\"'") from e


def _sentence(error: Exception) -> str:
    return str(error).split("\n", 1)[0].removesuffix(".")


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  # a value's own __repr__, or one that is nested too deeply
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
