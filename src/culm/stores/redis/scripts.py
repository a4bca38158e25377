"""The scripts of lua/, each made of the files it needs: one text, one hash. What they do is atomic; what they share is in base.lua."""

from __future__ import annotations

import hashlib
from importlib.resources import files

_BASE = ("base",)
_TELL = ("base", "tell", "leases")
_ROWS = (*_TELL, "rows")
_SCOPES = (*_ROWS, "scopes")
_ALIVE = "alive"

_NEEDS = {
    "arm": _BASE,
    "claim": (*_SCOPES, _ALIVE),
    "commit": _SCOPES,
    "counts": _BASE,
    "discard": _BASE,
    "extend": (*_ROWS, _ALIVE),
    "finish": _TELL,
    "look": _BASE,
    "purge": _SCOPES,
    "register": (*_BASE, _ALIVE),
    "replay": _SCOPES,
    "send": _BASE,
    "sweep": _ROWS,
    "view": _ROWS,
    "workers": _BASE,
}


class Script:
    """A script's text and its hash."""

    def __init__(self, name: str) -> None:
        parts = [(files(__package__) / "lua" / f"{part}.lua").read_text(encoding="utf-8") for part in (*_NEEDS[name], name)]
        self.text = "\n".join(parts).encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


SCRIPTS = {name: Script(name) for name in _NEEDS}
