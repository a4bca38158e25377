"""PgBouncer in transaction mode, private, in front of a server of the tests: nothing of a session outlives a transaction."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from tests.servers import HOST, PostgresServer, as_nobody, free_port, give_away

Mode = Literal["transaction", "session"]

_SETTINGS = """[databases]
postgres = host={host} port={server_port} dbname=postgres
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
pool_mode = {mode}
auth_type = trust
auth_file = {users}
max_client_conn = 200
default_pool_size = {size}
server_round_robin = 1
logfile = {log}
"""


class PgBouncer:
    """A missing program is an error, never a skip.

    Args:
        size: connections to the server, over which the clients' transactions go in turn.
    """

    def __init__(self, server: PostgresServer, *, mode: Mode = "transaction", size: int = 4) -> None:
        self._server = server
        self.port = free_port()
        self._place = Path(tempfile.mkdtemp(prefix="culm-pgbouncer-", dir="/tmp"))
        settings, users, self._log = self._place / "settings.ini", self._place / "users", self._place / "log"
        users.write_text(f'"{server.USER}" ""\n')
        settings.write_text(
            _SETTINGS.format(host=HOST, server_port=server.port, port=self.port, mode=mode, users=users, size=size, log=self._log)
        )
        give_away(self._place)
        command = as_nobody(_program(), "-q", str(settings))
        self._child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ends_at = time.monotonic() + 20
        while not self._answers():
            if self._child.poll() is not None or time.monotonic() > ends_at:
                raise RuntimeError(f"pgbouncer did not start:\n{self._log.read_text()[-2000:] if self._log.exists() else ''}")
            time.sleep(0.02)

    def _answers(self, sql: str = "SELECT 1") -> bool:
        command = ["psql", "-XAtqc", sql, f"postgresql://{self._server.USER}@{HOST}:{self.port}/postgres"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def spread(self) -> None:
        """Use several connections to the server at once: from then on transactions go over these in turn, instead of all over the first."""
        with ThreadPoolExecutor(3) as pool:
            assert all(pool.map(self._answers, ["SELECT pg_sleep(1)"] * 3))

    def url(self, direct: str) -> str:
        """The same store as at that address of the server's, through here."""
        return direct.replace(f":{self._server.port}/", f":{self.port}/")

    def backends(self) -> int:
        """How many of the server's connections are culm's."""
        return int(self._server.ask("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'culm'")[0][0])

    def close(self) -> None:
        self._child.kill()
        self._child.wait()
        shutil.rmtree(self._place, ignore_errors=True)


def _program() -> str:
    found = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin") or shutil.which("pgbouncer")
    if found is None:
        raise FileNotFoundError("pgbouncer is not installed; run: make servers")
    return found
