"""Why a broker ends connections: TLS tells a client that only after its own side of the handshake is done."""

from __future__ import annotations

import socket
import ssl

REVOKED, NEEDS_CERTIFICATE = "certificate revoked", "certificate required"
_SECONDS = 5.0


def refusal(host: str, port: int, context: ssl.SSLContext) -> str:
    """What the broker's TLS says of a client that comes with `context`; "" if it says nothing of the kind.

    Returns:
        `REVOKED`, `NEEDS_CERTIFICATE`, another of OpenSSL's words for an alert, or "".
    """
    try:
        with (
            socket.create_connection((host, port), _SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            secure.recv(1)
    except ssl.SSLError as error:
        words = (error.reason or "").lower().replace("_", " ")
        return words.partition("alert ")[2]
    except OSError:
        pass
    return ""
