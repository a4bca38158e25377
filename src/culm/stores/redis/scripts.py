"""The scripts of lua/, each made of the files it needs: one text, one hash. What they do is atomic; what they share is in base.lua."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files

_BASE = ("names", "base")
_TELL = (*_BASE, "tell", "leases")
_ROWS = (*_TELL, "held", "rows")
_BUNDLES = ("bundles", "bundle_places")
_SCOPES = (*_ROWS, *_BUNDLES, "scopes")
_ALIVE = "alive"

_NEEDS = {
    "arm": (*_BASE, "bundles"),
    "claim": (*_BASE, "leases", "bundles", _ALIVE),
    "commit": _SCOPES,
    "counts": (*_BASE, *_BUNDLES),
    "discard": _BASE,
    "extend": (*_ROWS, _ALIVE),
    "finish": _TELL,
    "hurry": _BASE,
    "look": _BASE,
    "purge": _SCOPES,
    "register": (*_BASE, _ALIVE),
    "replay": _SCOPES,
    "send": _BASE,
    "send_one": (),
    "sweep": _ROWS,
    "view": _ROWS,
    "waits": (*_ROWS, *_BUNDLES),
    "workers": _BASE,
}


class Script:
    """A script's text and its hash."""

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


_PREFIXED = re.compile(r"\bP \.\. '([^']*)'")


_RING = re.compile(r"call\('ZADD', P \.\. 'm:' \.\. (.+?), '0', '1'\)")
_WITHIN = re.compile(r"^ *-- with: (.+)$", re.MULTILINE)  # parts that stand there
_MARKER_ONLY = re.compile(r"^.*-- marker only$", re.MULTILINE)


_PLACE = "\0"  # of the prefix, in a text that many namespaces share


def _part(name: str) -> str:
    text = (files(__package__) / "lua" / f"{name}.lua").read_text(encoding="utf-8")
    return _WITHIN.sub(lambda match: "\n".join(_part(part) for part in match[1].split(", ")), text)


@cache
def _text(name: str, *, messages: bool) -> str:
    parts = [_part(part) for part in (*_NEEDS[name], name)]
    if len(parts) > 1:  # names, whose users find them sooner from within a function: Lua searches all that are local beside them
        parts = [parts[0], "return (function()", *parts[1:], "end)()"]
    whole = "\n".join(parts)
    if messages:
        whole = _RING.sub(r"call('PUBLISH', P .. 'm:' .. \1, '')", _MARKER_ONLY.sub("", whole))
    return f"local P = '{_PLACE}'\n" + _PREFIXED.sub(lambda match: f"'{_PLACE}{match[1]}'", whole)


class Scripts:
    """The scripts of a namespace. Its prefix is written into their constants: putting each key together took longer than using it.

    Args:
        messages: a wake-up is a message on a channel, heard by all who wait, and no marker, which one of them takes.
    """

    def __init__(self, prefix: str, *, messages: bool = False) -> None:
        self._prefix = prefix
        self._messages = messages
        self._made: dict[str, Script] = {}

    def __getitem__(self, name: str) -> Script:
        script = self._made.get(name)
        if script is None:
            script = self._made[name] = Script(_text(name, messages=self._messages).replace(_PLACE, self._prefix))
        return script
