"""A redis-server of our own: a free loopback port, nothing written to disk, gone with the block that opened it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

START_S = 10


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    """Yields its port."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("no redis-server here: `make bench-peers` installs it, or see benchmarks/peers/install_redis.sh")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, start_new_session=True)  # Ctrl-C is ours to handle
    try:
        _answers(server, port)
        yield port
    finally:
        server.kill()
        server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, command: str) -> bytes:
    """One command without arguments, one short answer: no client library is needed for it."""
    with socket.create_connection(("127.0.0.1", port), timeout=START_S) as connection:
        connection.sendall(f"{command}\r\n".encode("ascii"))
        return connection.recv(64)


def _answers(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError):
            if ask(port, "PING").startswith(b"+PONG"):
                return
        time.sleep(0.02)
    raise SystemExit(f"redis-server on port {port} did not answer within {START_S} s")
