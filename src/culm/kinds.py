"""Types that MessagePack has no word for, and how each is written: pydantic's models by themselves, your own by `app.codec`.

A value becomes plain data (what MessagePack has words for) when it is sent, and is built from that again where it arrives, by the
annotation. pydantic is never imported here: whoever has a model has imported it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_origin

import msgspec
from msgspec import Struct

from culm.errors import ConfigError

T = TypeVar("T")
MANY = 3  # faults of a model that an error names


class Kind(Struct, frozen=True):
    """How values of one type are written and built."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    wire: Any  # the type of what `encode` returns; Any: whatever it is


class Kinds:
    """The types that one app knows besides msgspec's own.

    Attributes:
        encode: any value that travels, as MessagePack. Raises TypeError, ValueError, OverflowError or RecursionError.
    """

    def __init__(self) -> None:
        self._known: dict[Any, Kind] = {}
        self.encode = msgspec.msgpack.Encoder(decimal_format="string", enc_hook=self._plain).encode
        self._encode_model = msgspec.msgpack.Encoder(decimal_format="string", enc_hook=self._plain_in_model).encode

    def add(self, kind: type[Any], *, encode: Callable[[Any], Any], decode: Callable[[Any], Any], wire: Any) -> None:
        """Raises ConfigError: the type travels by itself, or is known already."""
        if not isinstance(kind, type):
            raise TypeError(f"app.codec takes a class, got {kind!r}")
        if kind in self._known:
            raise ConfigError(f"app.codec: {_name(kind)} has a codec already")
        if not isinstance(msgspec.inspect.type_info(kind), msgspec.inspect.CustomType):
            raise ConfigError(f"app.codec: {_name(kind)} travels by itself (builtin, dataclass, Struct, enum ...); leave the codec out")
        self._known[kind] = Kind(encode, decode, wire)

    def decoder(self, kind: Any) -> msgspec.msgpack.Decoder[Any]:
        """Raises TypeError or msgspec's own errors when values of that type cannot travel."""
        return msgspec.msgpack.Decoder(kind, dec_hook=self._build)

    def convert(self, value: Any, kind: Any) -> Any:
        """What was read from JSON, as that type. Raises msgspec.ValidationError."""
        return msgspec.convert(value, kind, strict=True, builtin_types=(), dec_hook=self._build)

    # -- inside -------------------------------------------------------------------------------------------------------------

    def _plain(self, value: Any) -> Any:
        known = self._codec_of(value)
        if known is not None:
            return known.encode(value)
        if _is_model(type(value)):
            return msgspec.Raw(self._encode_model(value.model_dump(mode="python", by_alias=False, round_trip=True, warnings=False)))
        name = _name(type(value))
        raise TypeError(f"Encoding objects of type {name} is unsupported; say how with app.codec({name}, encode=..., decode=...)")

    def _plain_in_model(self, value: Any) -> Any:
        """What pydantic leaves in a model's data: its own kinds, such as addresses, as the text that it reads them from."""
        known = self._codec_of(value)
        if known is not None:
            return known.encode(value)
        if hasattr(value, "get_secret_value"):
            name = _name(type(value))
            raise TypeError(f"a {name} does not travel by itself; if it should, say how with app.codec({name}, encode=..., decode=...)")
        from pydantic_core import to_jsonable_python

        return to_jsonable_python(value)

    def _codec_of(self, value: Any) -> Kind | None:
        if not self._known:
            return None
        return next((self._known[kind] for kind in type(value).__mro__ if kind in self._known), None)

    def _build(self, kind: Any, data: Any) -> Any:
        known = self._known.get(kind)
        if known is not None:
            return known.decode(data if known.wire is Any else msgspec.convert(data, known.wire, dec_hook=self._build))
        if _is_model(kind):
            return _validated(kind, data)
        if isinstance(data, get_origin(kind) or kind):
            return data
        raise TypeError(f"Expected `{_name(kind)}`, got `{type(data).__name__}`")


def _is_model(kind: Any) -> bool:
    return hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_validate")


def _validated(model: Any, data: Any) -> Any:
    """By the names of fields, as it was written. Raises TypeError that says what was expected, without the values: they may be secret."""
    try:
        return model.model_validate(data, strict=False, by_alias=False, by_name=True)
    except ValueError as e:  # pydantic's ValidationError is one; so is what a validator of the model's own raises
        errors = getattr(e, "errors", None)
        if errors is None:
            raise
        faults = errors(include_url=False, include_context=False, include_input=False)
        said = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}".removeprefix(": ") for fault in faults[:MANY]]
        more = f" and {len(faults) - MANY} more" if len(faults) > MANY else ""
        raise TypeError(f"Expected `{_name(model)}`: {'; '.join(said)}{more}") from None


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", None) or str(kind)
