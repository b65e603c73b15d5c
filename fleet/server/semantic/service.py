"""What the running fleet does for an endpoint elsewhere: it keeps it equal to the registry as that changes.

The store in the fleet's own folder needs no service: whoever asks brings it up to date first (`opening.Semantics`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edge.fleet.server.semantic.opening import Semantics
from edge.fleet.server.semantic.sql import KINDS
from edge.runtime.errors import EdgeError

if TYPE_CHECKING:
    from edge.fleet.server.services import Server

_LOG = logging.getLogger("edge.fleet.semantic")
_RETRY_SECONDS = 30.0


class EndpointFollower:
    """Ties the projection to the server: one of its `extensions`, where the settings name a SPARQL endpoint.

    An endpoint that cannot be reached stops nothing: what it missed is brought to it when it is there again.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._semantics: Semantics | None = None
        for kind in KINDS:
            server.follow(kind, lambda event: self.follow())
        server.every(_RETRY_SECONDS, self.follow)
        self.follow()

    def follow(self) -> None:
        """Brings the endpoint up to date, or says why not."""
        try:
            if self._semantics is None:
                self._semantics = Semantics(self._server.state, self._server.database)
            self._semantics.follow()
        except EdgeError as error:
            _LOG.warning("the SPARQL endpoint is behind: %s", error)
