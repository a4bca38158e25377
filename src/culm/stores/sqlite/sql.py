"""Loads the statements of a .sql file by name: `-- name: fence  (parameters) -> rows` heads each."""

from __future__ import annotations

import re
from importlib.resources import files


def load(file: str) -> dict[str, str]:
    text = (files(__package__) / file).read_text(encoding="utf-8")
    parts = re.split(r"^-- name: (\w+).*$", text, flags=re.MULTILINE)[1:]
    return {name: _without_comments(body) for name, body in zip(parts[::2], parts[1::2], strict=True)}


def schema() -> str:
    return (files(__package__) / "schema.sql").read_text(encoding="utf-8")


def plain() -> str:
    """A script: the temporary views and triggers of a connection that writes."""
    return (files(__package__) / "plain.sql").read_text(encoding="utf-8")


def _without_comments(body: str) -> str:
    return "\n".join(line for line in body.splitlines() if not line.startswith("--")).strip()


SQL = load("statements.sql")
