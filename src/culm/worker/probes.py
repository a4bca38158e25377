"""Answers `GET /livez` and `/readyz` on threads of its own: 200 and `ok`, or 503 and why not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer

from culm.telemetry.address import Address

CLIENT_S = 5.0  # so long may somebody take who asks


class Probes:
    """Serves until `close`.

    Args:
        answers: by path, what is wrong; "": nothing.

    Raises OSError when the address cannot be had.
    """

    def __init__(self, address: Address, answers: Mapping[str, Callable[[], str]]) -> None:
        self._server = _Server(address, answers)
        self.address = Address(address.host, self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="culm-health", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: Address, answers: Mapping[str, Callable[[], str]]) -> None:
        self.answers = answers
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        super().__init__((address.host, address.port), _Asked)

    def handle_error(self, *_: object) -> None:
        """Whoever asked has gone."""


class _Asked(BaseHTTPRequestHandler):
    timeout = CLIENT_S

    def do_GET(self) -> None:
        ask = self.server.answers.get(self.path)  # type: ignore[attr-defined]  # it is a _Server
        why = "there are /livez and /readyz" if ask is None else ask()
        body = f"{why or 'ok'}\n".encode()
        self.send_response(404 if ask is None else 503 if why else 200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Probes come every few seconds: not worth a line."""
