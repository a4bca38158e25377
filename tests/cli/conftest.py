"""A shell for each test, and one for all that only need a worker that runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.cli.desk import Desk
from tests.cli.shell import Shell


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell in whose folder a worker runs."""
    shell = Shell(tmp_path_factory.mktemp("served"))
    shell.start("worker", "shop:app", "--lease", "2", "--heartbeat", "0.3").line("worker.started")
    yield shell
    shell.close()


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.server)])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    """A new store of each kind that commands can reach."""
    desk = Desk(servers.redis().url if request.param == "redis" else f"sqlite:///{tmp_path / 'jobs.db'}?durability=relaxed")
    desk.states()  # makes the file: a command that only looks would not
    return desk
