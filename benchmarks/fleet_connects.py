"""What a device's connection costs: mutual TLS at the broker, and the server's part of an arrival.

    python benchmarks/fleet_connects.py [--connects 4000] [--clients 2]

A real mosquitto; devices with certificates of their own (P-256), in --clients processes. Each connects with mutual TLS
and MQTT 5, subscribes, says that it is online, and disconnects, again and again, several at a time. CPU time counts: of
the broker for all that, the status on its way to the server included, and of the server for what it does about each
arrival. Wall time depends on what else the machine does, the clients to begin with. With the checkout on PYTHONPATH;
prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import multiprocessing
import ssl
import tempfile
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from fleet_ingest import _new_device
from processes import cpu

from edge.fleet import topics
from edge.fleet.addresses import Address
from edge.fleet.device.agent import QOS
from edge.fleet.messages import Sender, Status
from edge.fleet.server.services import Server
from edge.fleet.server.state import State
from edge.fleet.simulate.connection import Connection
from tests.fleet.lab import free_ports

_AT_ONCE = 8


def _client(port: int, root: str, identities: dict[str, Path], connects: int, ready: Any, go: Any) -> None:
    """In a process of its own."""
    contexts = {}
    for name, identity in identities.items():
        context = contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=root)
        context.load_cert_chain(identity)
    sender = Sender()

    async def connect_again(name: str, executor: Executor) -> None:
        status, filters = topics.up(name, "status"), [(topics.everything_down(name), QOS), (topics.to_all("#"), QOS)]
        for _ in range(connects // len(identities)):
            offline, online = (sender.wrap(Status(here).json()).encode() for here in (False, True))
            connection = Connection(name, contexts[name], mqtt.MQTTv5, (status, offline), lambda topic, payload: None)
            await connection.open(Address("127.0.0.1", port), 60, filters, executor)
            connection.publish(status, online, QOS)
            connection.disconnect(10)
            await connection.closed
            connection.drop()

    async def connect_all() -> None:
        with ThreadPoolExecutor(_AT_ONCE) as executor:
            await asyncio.gather(*(connect_again(name, executor) for name in identities))

    ready.release()
    go.wait()
    asyncio.run(connect_all())


def measure(folder: Path, connects: int, clients: int) -> dict[str, float]:
    state = State.create(folder / "fleet")
    port, boot_port = free_ports(2)
    server = Server(state, dataclasses.replace(state.settings(), host="127.0.0.1", port=port, boot_port=boot_port))
    server.start()
    try:
        assert server.broker_pid is not None, "mosquitto is not installed"
        context = multiprocessing.get_context("spawn")
        ready, go = context.Semaphore(0), context.Event()
        each = connects // clients // _AT_ONCE * _AT_ONCE
        arrivals = [0]

        def arrived(connection: Any, devices: list[str]) -> list[Any]:
            arrivals[0] += len(devices)
            return []

        server.ingest.on_arrival(arrived)
        children = []
        for client in range(clients):
            names = [f"device-{client}-{number}" for number in range(_AT_ONCE)]
            identities = {name: _new_device(server, folder, name) for name in names}
            arguments = (port, server.authority.root_pem, identities, each, ready, go)
            children.append(context.Process(target=_client, args=arguments))
            children[-1].start()
        for _ in children:
            ready.acquire()
        time.sleep(1)
        broker, began = [server.broker_pid], time.monotonic()
        broker_before, server_before = cpu(broker), time.process_time()
        go.set()
        for child in children:
            child.join()
            assert child.exitcode == 0, "a client failed"
        wall = time.monotonic() - began
        last = -1
        while last != arrivals[0]:  # until the server has taken in what came
            last = arrivals[0]
            time.sleep(0.5)
        broker_cpu, server_cpu = cpu(broker) - broker_before, time.process_time() - server_before
        done = each * clients
        return {
            "connects": done,
            "arrivals": arrivals[0],
            "client_processes": clients,
            "broker_cpu_ms_per_connect": round(broker_cpu / done * 1e3, 3),
            "connects_per_broker_cpu_second": round(done / broker_cpu),
            "server_cpu_ms_per_connect": round(server_cpu / done * 1e3, 3),
            "wall_connects_per_second": round(done / wall),
            "wall_seconds": round(wall, 2),
        }
    finally:
        server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connects", type=int, default=4000)
    parser.add_argument("--clients", type=int, default=2, help="processes that connect")
    parser.add_argument("--folder", type=Path, help="where the registry lies; a scratch folder by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="edge-connects-") as scratch:
        print(json.dumps(measure(Path(scratch), given.connects, given.clients), indent=2))
