"""`culm migrate` as its users meet it."""

import uuid

import pytest

from culm.stores.postgres.migrate import LAYOUT
from tests import servers
from tests.cli.shell import Shell

pytestmark = pytest.mark.server


def new_url() -> str:
    return servers.postgres().url(f"s{uuid.uuid4().hex}", durability="relaxed")


def test_it_makes_the_tables_once_and_says_so(shell: Shell) -> None:
    url = new_url()
    first = shell.run("migrate", url, "--check")
    assert (first.code, first.out, first.err) == (
        1,
        "",
        f"culm: the tables have version 0, and this culm needs {LAYOUT}; run: culm migrate URL\n",
    )
    assert shell.run("enqueue", "shop:app", "shop.add", "1", "--url", url).code == 78
    assert (done := shell.run("migrate", url)).out == f"the tables went from version 0 to {LAYOUT}\n", done.err
    assert shell.run("migrate", "shop:app", "--url", url).out == f"the tables had version {LAYOUT} already\n"
    assert shell.run("migrate", "--url", url, "--check").out == f"the tables have version {LAYOUT}, as needed\n"
    assert shell.run("enqueue", "shop:app", "shop.add", "1", "--url", url).code == 0


def test_its_sql_makes_the_same_tables(shell: Shell) -> None:
    url = new_url()
    printed = shell.run("migrate", url, "--sql")
    assert printed.code == 0
    servers.postgres().ask(printed.out)
    assert shell.run("migrate", url, "--check").code == 0


def test_a_store_without_migrations_says_so(shell: Shell) -> None:
    done = shell.run("migrate", "redis://:geheim@localhost")
    assert (done.code, done.out) == (78, "")
    assert done.err == "culm: redis://:***@localhost needs no migration: only the tables of postgresql:// are made by a command\n"


def test_the_doctor_says_what_the_server_survives(shell: Shell) -> None:
    url = new_url()
    shell.run("migrate", url)
    done = shell.run("doctor", "--url", url, "--json")
    assert (done.code, done.err) == (0, "")
    found = done.json
    assert found["engine"].startswith("PostgreSQL ")
    assert found["durability"] == "D1: survives a crash of the server's process, not a power cut (fsync=off)"
    assert found["layout"] == LAYOUT
    assert abs(found["clock_ahead_ms"]) < 1_000
