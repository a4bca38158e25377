"""`culm migrate`: brings a store's tables to the version that this culm needs. Only PostgreSQL's are made by hand."""

from __future__ import annotations

import os
from typing import Any

from culm.cli.output import Exit, say, say_json, warn
from culm.cli.target import load_app
from culm.errors import ConfigError
from culm.stores.open import default_url, migrate_store, migration_of, migration_script


def address_of(target: str | None, url: str | None) -> str:
    """Of an address, an app, --url, or $CULM_URL. Raises ConfigError."""
    if target is None:
        return url or default_url()
    if "://" in target:
        return target
    return load_app(target, url).url or os.environ.get("CULM_URL") or default_url()


async def migrate(url: str, *, check: bool, sql: bool, grant: str | None, as_json: bool) -> int:
    if check and (sql or grant):
        raise ConfigError("--check changes nothing; leave --sql and --grant out")
    if sql:
        script = f"BEGIN;\n{migration_script(url, grant=grant)}\nCOMMIT;"
        _tell({"sql": script}, script, as_json=as_json)
        return Exit.OK
    if check:
        there, needed = await migration_of(url)
        _tell(
            {"version": there, "needed": needed}, f"the tables have version {there}, as needed" if there == needed else "", as_json=as_json
        )
        if there == needed:
            return Exit.OK
        warn(f"culm: the tables have version {there}, and this culm needs {needed}; run: culm migrate URL")
        return Exit.FAILED
    since, to = await migrate_store(url, grant=grant)
    said = f"the tables had version {to} already" if since == to else f"the tables went from version {since} to {to}"
    _tell({"from": since, "version": to, "granted": grant}, said + (f"\n{grant} may use them" if grant else ""), as_json=as_json)
    return Exit.OK


def _tell(facts: dict[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        say_json(facts)
    elif text:
        say(text)
