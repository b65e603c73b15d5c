"""What a NATS cluster of three costs as the fleet's broker: connections, reports, and a node that dies.

    python benchmarks/fleet_nats.py [--devices 60] [--reports 6000]

Three nodes with `edge fleet broker-config`'s configuration on this machine, the fleet's server in this process, SQLite.
CPU time counts: of the three nodes together, and of the server. "failover" is the time from SIGKILL of the node that
the server was on until every device has been acknowledged something new.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import ssl
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from fleet_ingest import _new_device

from edge.fleet.messages import Sender
from edge.fleet.server.nats_admission import Knock, admit
from tests.fleet.nats_lab import Cluster
from tests.fleet.test_nats import NatsFleet

_AT_ONCE = 20  # devices that connect at the same moment


def _cpu(cluster: Cluster) -> float:
    """CPU seconds of all nodes."""
    ticks = 0
    for process in cluster.processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _memory(cluster: Cluster) -> float:
    """Resident megabytes of all nodes."""
    pages = sum(int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) for process in cluster.processes)
    return pages * resource.getpagesize() / 1e6


class Device:
    """A client that reports when it is told to, and counts what is acknowledged."""

    def __init__(self, fleet: NatsFleet, name: str, identity: Path, turn: int) -> None:
        self.name, self.acknowledged = name, 0
        self._sender, self._nodes, self._turn = Sender(), fleet.cluster.nodes, turn
        self.subscribed = threading.Event()
        self.more = threading.Event()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=fleet.server.authority.root_pem)
        context.load_cert_chain(identity)
        self.client = client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv311)
        client.tls_set_context(context)
        client.reconnect_delay_set(1, 2)
        client.on_connect = lambda *_: client.subscribe(f"f/v1/{name}/down/#", 0)
        client.on_subscribe = lambda *_: self.subscribed.set()
        client.on_message = self._on_message
        client.on_disconnect = lambda *_: self._next()
        client.on_connect_fail = lambda *_: self._next()
        self._next()
        client.loop_start()

    def _next(self) -> None:
        self.subscribed.clear()
        at = self._nodes[self._turn % len(self._nodes)].at
        self._turn += 1
        self.client.connect_async(at.host, at.port)

    def _on_message(self, _c: Any, _u: Any, _message: Any) -> None:
        self.acknowledged += 1
        self.more.set()

    def report(self, qos: int) -> None:
        body = {"values": {"celsius": 21.5, "load": 0.12, "uptime": self.acknowledged}}
        self.client.publish(f"f/v1/{self.name}/up/tel", self._sender.wrap(body).encode(), qos)


def measure(folder: Path, count: int, reports: int) -> dict[str, Any]:
    fleet = NatsFleet(folder)
    found: dict[str, Any] = {"devices": count}
    try:
        cluster = fleet.cluster
        names = [f"device-{number}" for number in range(count)]
        identities = {name: _new_device(fleet.server, folder, name) for name in names}
        nodes, memory, began = _cpu(cluster), _memory(cluster), time.monotonic()
        devices: list[Device] = []
        for turn, (name, path) in enumerate(identities.items()):
            devices.append(Device(fleet, name, path, turn))
            if len(devices) % _AT_ONCE == 0:
                assert all(device.subscribed.wait(60) for device in devices)
        assert all(device.subscribed.wait(60) for device in devices)
        found["connects_per_second"] = round(count / (time.monotonic() - began), 1)
        found["node_ms_per_connect"] = round((_cpu(cluster) - nodes) / count * 1e3, 2)
        found["node_kb_per_device"] = round((_memory(cluster) - memory) * 1e3 / count, 1)
        found["admission_us"] = _admission(fleet, identities)
        for qos in (0, 1):
            nodes, start = _cpu(cluster), [device.acknowledged for device in devices]
            began = time.monotonic()
            for _ in range(reports // count):
                for device in devices:
                    device.report(qos)
                time.sleep(0.01)
            each, deadline = reports // count, time.monotonic() + 120
            while any(one.acknowledged - was < each for one, was in zip(devices, start, strict=True)):
                assert time.monotonic() < deadline, "reports were lost"
                time.sleep(0.01)
            found[f"node_us_per_report_qos{qos}"] = round((_cpu(cluster) - nodes) / reports * 1e6, 1)
            found[f"seconds_qos{qos}"] = round(time.monotonic() - began, 2)
        found["failover_seconds"] = _failover(fleet, devices)
        for device in devices:
            device.client.disconnect()
            device.client.loop_stop()
    finally:
        fleet.stop()
    return found


def _admission(fleet: NatsFleet, identities: dict[str, Path]) -> float:
    """CPU microseconds of the server for one answer: the registry is asked, two tokens are signed."""
    admission = fleet.server.admission
    assert admission is not None
    pem = next(iter(identities.values())).read_text()
    certificate = "-----BEGIN CERTIFICATE" + pem.split("-----BEGIN CERTIFICATE")[1]
    knock = Knock("U" * 56, "N" * 56, "device-0", True, certificate)
    began, times = time.process_time(), 1000
    for _ in range(times):
        with fleet.database.reading() as connection:
            grant = admit(connection, knock, lambda device: False)
        admission._key.token({"nats": {"jwt": admission._user(knock, grant)}})
    return round((time.process_time() - began) / times * 1e6, 1)


def _failover(fleet: NatsFleet, devices: list[Device]) -> float:
    victim = next(node for node in fleet.cluster.nodes if node.at == fleet.server.link._broker)
    start = [device.acknowledged for device in devices]
    began = time.monotonic()
    fleet.cluster.kill(victim)
    while any(one.acknowledged == was for one, was in zip(devices, start, strict=True)):
        assert time.monotonic() < began + 120, "a device did not come back"
        for device, was in zip(devices, start, strict=True):
            if device.acknowledged == was and device.subscribed.is_set():
                device.report(0)
        time.sleep(0.5)
    return round(time.monotonic() - began, 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=60)
    parser.add_argument("--reports", type=int, default=6000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-nats-") as scratch:
        print(json.dumps(measure(Path(scratch), given.devices, given.reports), indent=2))
