"""Files by their hash over HTTPS, where the operator offers a mirror of the server's store.

A mirror is any web server that gives `URL/AA/HASH` (AA are the first two digits of the hash) and understands `Range`:
nginx on the store's folder, a CDN before it. It need not be trusted, only the signed hash is; HTTPS keeps others from
seeing what a device fetches.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import ssl
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from edge.fleet.device.download import Source
from edge.runtime.errors import BadInput

_log = logging.getLogger("edge.fleet.updates")

CHUNK = 1 << 20
_TIMEOUT = 20.0
CHUNK_SECONDS = 30.0
_SLOWEST = 1024  # bytes a second
# For an answer with all its headers, of which each byte begins the timeout anew.
_LONGEST = 60.0
_HASH_LENGTH = 64


def check_mirror(url: str) -> str:
    """A mirror's URL without the slash at its end.

    Raises:
        BadInput: it is no HTTPS URL, or holds a password, a query or a fragment.
    """
    parts = urlsplit(url)
    try:
        sound = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or parts.username or parts.query or parts.fragment or len(url) > 500 or not url.isprintable():
        raise BadInput(f"mirror {url[:80]!r}: expected https://host/path")
    return url.rstrip("/")


class Mirror:
    """A `Source` that takes files from a mirror, and all else, and what the mirror does not give, from another source.

    Args:
        url: of the mirror.
        behind: the other source.
        root: the fleet's own authority, PEM, which is believed beside those that the system knows.
    """

    def __init__(self, url: str, behind: Source, root: Path | None = None) -> None:
        self._parts = urlsplit(check_mirror(url))
        self._behind = behind
        self._trust = ssl.create_default_context()
        if root is not None and root.exists():
            self._trust.load_verify_locations(root)
        self._connection: http.client.HTTPSConnection | None = None
        self._works = True
        self._kept: tuple[str, int, bytes] = ("", 0, b"")

    def fetch(self, name: str, offset: int, length: int) -> bytes | None:
        """As `Source.fetch`; a megabyte is fetched ahead."""
        if len(name) == _HASH_LENGTH and self._works:
            kept, begin, data = self._kept
            if kept != name or not begin <= offset < begin + len(data):
                try:
                    data, begin = self._in_time(name, offset), offset
                except (OSError, http.client.HTTPException, ValueError) as error:
                    # Said once: from here on the server's own connection carries it.
                    _log.warning("mirror %s: %s: goes on without it", self._parts.hostname, error)
                    self._works = False
                    self.close()
                    return self._behind.fetch(name, offset, length)
                self._kept = (name, begin, data)
            return data[offset - begin : offset - begin + length]
        return self._behind.fetch(name, offset, length)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _in_time(self, name: str, offset: int) -> bytes:
        """`_range`, whose connection is cut when it takes too long: its timeout begins anew with every byte."""
        if self._connection is None:
            assert self._parts.hostname is not None
            self._connection = http.client.HTTPSConnection(
                self._parts.hostname, self._parts.port, timeout=_TIMEOUT, context=self._trust
            )
        if self._connection.sock is None:
            self._connection.connect()
        late = threading.Event()

        def cut(line: socket.socket) -> None:
            late.set()
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

        watch = threading.Timer(_LONGEST, cut, (self._connection.sock,))
        watch.daemon = True
        watch.start()
        try:
            data = self._range(self._connection, name, offset)
        finally:
            watch.cancel()
        if late.is_set():
            raise ValueError(f"gave no answer in {_LONGEST:g} s")
        return data

    def _range(self, connection: http.client.HTTPSConnection, name: str, offset: int) -> bytes:
        path = f"{self._parts.path}/{name[:2]}/{name}"
        connection.request("GET", path, headers={"Range": f"bytes={offset}-{offset + CHUNK - 1}"})
        with connection.getresponse() as answer:
            if answer.status not in (200, 206):
                raise ValueError(f"answers {answer.status}")
            if answer.status == 200 and offset:
                raise ValueError("does not understand Range")
            if answer.status == 206 and not str(answer.getheader("Content-Range")).startswith(f"bytes {offset}-"):
                raise ValueError("gives another range than was asked for")
            data = _read(answer)
            if answer.length != 0:  # more, or less, than was asked for: the connection is of no use any more
                self.close()
        if not data:
            raise ValueError("gives nothing")
        return data


def _read(answer: http.client.HTTPResponse) -> bytes:
    """A chunk, or what has come of it when its time is over: the rest is asked for again.

    Raises:
        ValueError: that is next to nothing: a mirror that drips would keep the device for ever.
    """
    data, deadline = bytearray(), time.monotonic() + CHUNK_SECONDS
    while len(data) < CHUNK and (piece := answer.read1(CHUNK - len(data))):
        data += piece
        if time.monotonic() > deadline:
            if len(data) < _SLOWEST * CHUNK_SECONDS:
                raise ValueError(f"gives less than {_SLOWEST} bytes a second")
            break
    return bytes(data)
