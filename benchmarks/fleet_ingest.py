"""What a report costs the fleet's server, from the broker's socket to the acknowledgement.

    python benchmarks/fleet_ingest.py [--devices 50] [--reports 20000]

A real mosquitto with mutual TLS, devices with certificates of their own in another process, SQLite with synchronous
FULL on the disk of --folder. CPU time counts: of the server's process (which holds the ingest, the commits and the MQTT
client), and of the broker's. Wall time depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import ssl
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt

from edge.fleet.messages import Sender
from edge.fleet.server import enrollment, registry
from edge.fleet.server.authority import read_request
from edge.fleet.server.services import Server
from edge.fleet.server.state import State


def _new_device(server: Server, folder: Path, name: str) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    issued = server.authority.sign(read_request(csr.public_bytes(Encoding.PEM).decode()), name)
    with server.database.transaction() as connection:
        registry.add(connection, name, {})
        enrollment._record(connection, issued)
    path = folder / f"{name}.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(secret + (issued.pem + server.authority.issuing_pem).encode())
    return path


def _devices(port: int, root: str, identities: dict[str, Path], reports: int, window: int, ready: Any, go: Any) -> None:
    """In a process of its own: every device keeps a window of unacknowledged reports on their way."""
    each = reports // len(identities)
    finished = threading.Semaphore(0)
    clients = []
    for name, identity in identities.items():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=root)
        context.load_cert_chain(identity)
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
        client.tls_set_context(context)
        sender, state = Sender(), {"sent": 0, "acknowledged": 0}
        subscribed = threading.Event()

        def send(client: mqtt.Client = client, sender: Sender = sender, state: Any = state, name: str = name) -> None:
            if state["sent"] < each:
                state["sent"] += 1
                body = {"values": {"celsius": 21.5, "load": 0.12, "uptime": state["sent"]}}
                client.publish(f"f/v1/{name}/up/tel", sender.wrap(body).encode(), 0)

        def acknowledged(_c: Any, _u: Any, _m: Any, send: Any = send, state: Any = state) -> None:
            state["acknowledged"] += 1
            send()
            if state["acknowledged"] == each:
                finished.release()

        client.on_message = acknowledged
        client.on_connect = lambda c, _u, _f, _r, _p, name=name: c.subscribe(f"f/v1/{name}/down/#", 0)
        client.on_subscribe = lambda *_, subscribed=subscribed: subscribed.set()
        client.connect("127.0.0.1", port)
        client.loop_start()
        assert subscribed.wait(60)
        clients.append(send)
    ready.set()
    go.wait()
    for _ in range(window):
        for send in clients:
            send()
    for _ in clients:
        finished.acquire()


def _cpu(pid: int | None) -> float:
    """CPU seconds of another process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(folder: Path, devices: int, reports: int, window: int) -> dict[str, float]:
    state = State.create(folder / "fleet")
    settings = dataclasses.replace(state.settings(), host="127.0.0.1", port=23883, boot_port=23884)
    server = Server(state, settings)
    server.start()
    try:
        identities = {f"device-{number}": _new_device(server, folder, f"device-{number}") for number in range(devices)}
        context = multiprocessing.get_context("spawn")
        ready, go = context.Event(), context.Event()
        arguments = (settings.port, server.authority.root_pem, identities, reports, window, ready, go)
        child = context.Process(target=_devices, args=arguments)
        child.start()
        ready.wait()
        before, broker_before, began = time.process_time(), _cpu(server.broker_pid), time.monotonic()
        groups = server.ingest.counts.groups
        go.set()
        child.join()
        wall = time.monotonic() - began
        cpu, broker_cpu = time.process_time() - before, _cpu(server.broker_pid) - broker_before
        assert server.ingest.counts.committed >= reports - devices, "not all was committed"
        return {
            "reports": reports,
            "group": round(reports / (server.ingest.counts.groups - groups), 1),
            "server_us_per_report": round(cpu / reports * 1e6, 1),
            "broker_us_per_report": round(broker_cpu / reports * 1e6, 1),
            "reports_per_server_cpu_second": round(reports / cpu),
            "wall_seconds": round(wall, 2),
        }
    finally:
        server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=50)
    parser.add_argument("--reports", type=int, default=20_000)
    parser.add_argument("--window", type=int, default=20, help="reports of a device on their way")
    parser.add_argument("--folder", type=Path, help="where the registry lies; a scratch folder by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="edge-ingest-") as scratch:
        print(json.dumps(measure(Path(scratch), given.devices, given.reports, given.window), indent=2))
