"""What Prometheus reads of a running fleet, on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from edge.fleet.errors import FleetError
from edge.fleet.server import tables
from edge.fleet.server.ingest import Counts
from edge.fleet.server.workers import WorkerReport

if TYPE_CHECKING:
    from edge.fleet.server.services import Server


class FleetMetrics:
    """Collects at each scrape: counters of the ingest from memory, figures of the registry from the database."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        server = self._server
        workers = server.workers.reports() if server.workers else []
        counts = Counts(**vars(server.ingest.counts))
        for worker in workers:
            for name in vars(counts):
                setattr(counts, name, getattr(counts, name) + getattr(worker, name))
        for name, value, text in (
            ("committed", counts.committed, "Messages committed and acknowledged."),
            ("repeated", counts.repeated, "Messages that were known already."),
            ("refused", counts.refused, "Messages that were malformed or wrong."),
            ("dropped", counts.dropped, "Messages dropped because their device sent too many."),
            ("groups", counts.groups, "Transactions that committed messages."),
        ):
            yield CounterMetricFamily(f"edge_fleet_messages_{name}", text, value)
        yield from _by_worker(workers)
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


def _by_worker(workers: list[WorkerReport]) -> Iterator[Metric]:
    if not workers:
        return
    up = GaugeMetricFamily("edge_fleet_worker_up", "Whether a worker runs and has the broker.", labels=["worker"])
    devices = GaugeMetricFamily("edge_fleet_worker_devices", "Devices of a worker's shard.", labels=["worker"])
    families: list[Metric] = [up, devices]
    for worker in workers:
        up.add_metric([str(worker.worker)], float(worker.up))
        devices.add_metric([str(worker.worker)], worker.devices)
    for name, text in (
        ("restarts", "How often a worker was started again."),
        ("committed", "Messages that a worker committed and acknowledged."),
        ("refused", "Messages to a worker that were malformed or wrong."),
        ("dropped", "Messages that a worker dropped because their device sent too many."),
    ):
        family = CounterMetricFamily(f"edge_fleet_worker_{name}", text, labels=["worker"])
        for worker in workers:
            family.add_metric([str(worker.worker)], getattr(worker, name))
        families.append(family)
    yield from families


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
