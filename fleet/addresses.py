"""Addresses of brokers: one or several, of which a client takes the next when one does not answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from edge.fleet.errors import FleetError
from edge.runtime.errors import BadFile
from edge.runtime.fields import text

MOST = 16
"""So many brokers a device is told of."""

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?|[0-9a-fA-F:]{2,39}(?:%[A-Za-z0-9]{1,15})?")


def is_host(text: str) -> bool:
    """Whether `text` could be the name or the address of a machine."""
    return _HOST.fullmatch(text) is not None


@dataclass(frozen=True)
class Address:
    """A host and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, given: str, port: int, where: str = "address") -> Address:
        """Reads "host", "host:8883" or "[::1]:8883".

        Args:
            port: what holds where the text has none.

        Raises:
            FleetError: it is not an address.
        """
        try:
            parts = urlsplit(f"//{given}")
            host, found = parts.hostname or "", parts.port
        except ValueError:
            host, found = "", None
        if not _HOST.fullmatch(host) or parts.path or parts.query or parts.fragment or "@" in given or found == 0:
            raise FleetError(f"{where}: {given[:80]!r}: expected host:port, like broker.example.org:{port}")
        return cls(host, found or port)


def local(host: str) -> str:
    """How this machine reaches what listens on `host`, of which "", "0.0.0.0" and "::" are every address."""
    return "127.0.0.1" if host in ("", "0.0.0.0", "::") else host  # noqa: S104 (a comparison)


def read_address(value: object, where: str) -> str:
    """A "host:port" in a message or a file, in its one spelling.

    Raises:
        BadFile: it is something else.
    """
    try:
        return str(Address.parse(text(value, where, 300), 8883, where))
    except FleetError as error:
        raise BadFile(str(error)) from error


def parse_url(url: str, port: int, where: str, scheme: str = "mqtts") -> tuple[Address, ...]:
    """Reads a URL with one or several addresses: "mqtts://a:8883,b,c:8883".

    Args:
        port: of addresses that name none.
        where: what the error begins with, like "--broker".

    Raises:
        FleetError: it is not such a URL.
    """
    start, slashes, rest = url.partition("://")
    if not slashes or start != scheme or not rest:
        raise FleetError(
            f"{where} {url[:80]}: a URL like {scheme}://host:{port}, or with several: {scheme}://a:{port},b:{port}"
        )
    return parse_list(rest.removesuffix("/"), port, where)


def parse_list(given: str, port: int, where: str) -> tuple[Address, ...]:
    """Reads "a:8883,b:8883".

    Raises:
        FleetError: one of them is not an address, is there twice, or they are more than `MOST`.
    """
    parts = given.split(",")
    if len(parts) > MOST:
        raise FleetError(f"{where}: {len(parts)} addresses; at most {MOST}")
    found = tuple(Address.parse(part.strip(), port, where) for part in parts)
    if len(set(found)) != len(found):
        raise FleetError(f"{where}: an address is named twice")
    return found
