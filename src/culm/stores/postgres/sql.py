"""Loads the statements of statements.sql by name: `-- name: job  (parameters) -> columns` heads each."""

from __future__ import annotations

import re
from importlib.resources import files


def _load() -> dict[str, str]:
    text = (files(__package__) / "statements.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- name: (\w+).*$", text, flags=re.MULTILINE)[1:]
    bodies = ("\n".join(line for line in body.splitlines() if not line.startswith("--")).strip() for body in parts[1::2])
    return dict(zip(parts[::2], bodies, strict=True))


SQL = _load()
