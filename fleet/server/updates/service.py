"""Updates within the running server: chunks for devices, their reports, and what time brings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from edge.fleet import topics
from edge.fleet.messages import BlobRequest, Envelope, JobReport
from edge.fleet.server.ingest import Publication, Report
from edge.fleet.server.state import State
from edge.fleet.server.updates.repository import ModelRepository
from edge.fleet.server.updates.rollout import Rollouts
from edge.fleet.server.updates.selection import selector
from edge.fleet.server.updates.source import Source
from edge.fleet.server.updates.store import BlobStore

if TYPE_CHECKING:
    from edge.fleet.server.services import Server
    from edge.fleet.server.worker import Worker

_log = logging.getLogger("edge.fleet.updates")

_TICK_SECONDS, _RENEW_SECONDS = 1.0, 3600.0


def open_source(state: State, keys: Sequence[Path] = ()) -> Source:
    """The repository and the store of a fleet; `keys` are folders with further keys.

    Raises:
        FleetError: the repository is gone.
    """
    state.check()
    ModelRepository.create(state.tuf)  # which is there: brings it up to date after a crash
    return Source(ModelRepository(state.tuf, keys=keys), BlobStore(state.models))


class Reports:
    """What devices say of rollouts and ask of models: taken in by the server, and by each of its workers."""

    def __init__(self, service: Server | Worker, source: Source) -> None:
        self._service = service
        self._source = source
        self._rollouts = Rollouts(service.database)
        service.ingest.on("job", self._reported)
        service.ingest.on_transient("blob", self._asked)

    def _reported(self, connection: Connection, report: Report) -> list[Publication]:
        body = JobReport.read(report.envelope.body, f"{report.device} job")
        self._rollouts.report(connection, report.device, report.rest[0], body.state, body.detail, body.metrics)
        return []

    def _asked(self, device: str, envelope: Envelope) -> None:
        """Answers a request for a chunk; an empty answer says that there is nothing (more)."""
        request = BlobRequest.read(envelope.body, f"{device} blob")
        data = self._source.fetch(request.name, request.offset, request.length)
        self._service.publish(Publication(topics.down(device, "blob", request.name, str(request.offset)), data or b""))


class Updates:
    """Ties updates to the server: one of its `extensions`."""

    def __init__(self, server: Server) -> None:
        self._source = open_source(server.state)
        self.rollouts = Rollouts(server.database, selector(server.database))
        self._renew()
        server.models_root = self._source.repository.trusted_root
        self.reports = Reports(server, self._source)
        server.every(_TICK_SECONDS, self.rollouts.tick)
        server.every(_RENEW_SECONDS, self._renew)

    def _renew(self) -> None:
        for role, told in self._source.repository.renew().items():
            _log.warning("the TUF metadata of %s %s: edge fleet keys", role, told)
