"""What Prometheus reads of a running fleet, on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from edge.fleet.errors import FleetError
from edge.fleet.server import tables

if TYPE_CHECKING:
    from edge.fleet.server.services import Server


class FleetMetrics:
    """Collects at each scrape: counters of the ingest from memory, figures of the registry from the database."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        server, counts = self._server, self._server.ingest.counts
        for name, value, text in (
            ("committed", counts.committed, "Messages committed and acknowledged."),
            ("repeated", counts.repeated, "Messages that were known already."),
            ("refused", counts.refused, "Messages that were malformed or wrong."),
            ("dropped", counts.dropped, "Messages dropped because their device sent too many."),
            ("groups", counts.groups, "Transactions that committed messages."),
        ):
            yield CounterMetricFamily(f"edge_fleet_messages_{name}", text, value)
        yield CounterMetricFamily("edge_fleet_broker_restarts", "Restarts of the broker.", server.broker_restarts)
        connected = float(server.connected.is_set())
        yield GaugeMetricFamily("edge_fleet_broker_connected", "Whether the server has its broker.", connected)
        devices, enrollments = tables.devices, tables.enrollments
        with server.database.reading() as connection:
            online = connection.scalar(sa.select(sa.func.count()).where(devices.c.online, devices.c.state == "active"))
            waiting = connection.scalar(sa.select(sa.func.count()).where(enrollments.c.state == "pending"))
            states = connection.execute(sa.select(devices.c.state, sa.func.count()).group_by(devices.c.state)).all()
        yield GaugeMetricFamily("edge_fleet_devices_online", "Devices that are connected.", online or 0)
        yield GaugeMetricFamily("edge_fleet_enrollments_pending", "Requests that wait for a decision.", waiting or 0)
        family = GaugeMetricFamily("edge_fleet_devices", "Devices by state.", labels=["state"])
        for state, count in states:
            family.add_metric([state], count)
        yield family


def serve(server: Server, port: int) -> Callable[[], None]:
    """Serves http://127.0.0.1:PORT/metrics until the function that is returned is called.

    Raises:
        FleetError: the port is taken.
    """
    registry = CollectorRegistry()
    registry.register(FleetMetrics(server))
    try:
        web, thread = start_http_server(port, "127.0.0.1", registry)
    except OSError as error:
        raise FleetError(f"metrics: port {port}: {error.strerror}: choose another with --metrics-port, or 0") from error

    def stop() -> None:
        web.shutdown()
        web.server_close()
        thread.join(5)

    return stop
