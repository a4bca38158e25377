"""Where metrics are served: HOST:PORT, on this machine only. They have neither a password nor TLS: for others, put a proxy before them."""

from __future__ import annotations

import ipaddress
import re
import socket

from msgspec import Struct

from culm.errors import ConfigError


class Address(Struct, frozen=True):
    host: str
    port: int  # 0: any that is free

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def of_place(self, place: int) -> Address:
        """That of the n-th process, from 1: each has a port of its own, in a row."""
        return Address(self.host, self.port + place - 1) if self.port else self


def parse_address(text: str, *, processes: int = 1, option: str = "--metrics") -> Address:
    """Raises ConfigError: it is no HOST:PORT, not of this machine, or there are not so many ports."""
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*):(\d{1,5})", text)
    if found is None:
        raise ConfigError(f"{option} takes HOST:PORT, such as 127.0.0.1:9000, got {text!r}")
    host, port = found[1].strip("[]"), int(found[2])
    if port and port + processes - 1 > 65_535:
        raise ConfigError(f"{option} {text}: ports end at 65535, and {processes} process(es) need one each")
    if not _is_ours(host):
        raise ConfigError(
            f"{option} {text}: what is served there has neither a password nor TLS, so it is for this machine only; "
            "say 127.0.0.1 or [::1], and put a proxy before them for others"
        )
    return Address("127.0.0.1" if host == "localhost" else host, port)


def _is_ours(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_taken(address: Address, *, processes: int) -> None:
    """Raises ConfigError when one of the ports cannot be had: better before processes are started than by each of them, again and again."""
    for place in range(1, processes + 1):
        one = address.of_place(place)
        family = socket.AF_INET6 if ":" in one.host else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as found:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                found.bind((one.host, one.port))
        except OSError as e:
            raise unservable(one, e) from e


def unservable(address: Address, error: OSError, *, option: str = "--metrics") -> ConfigError:
    return ConfigError(f"cannot serve {option[2:]} on {address}: {error.strerror or error}; choose another with {option}")
