"""What a report costs the fleet's server, from the broker's socket to the acknowledgement.

    python benchmarks/fleet_ingest.py [--devices 50] [--reports 20000] [--workers 2] [--database URL] [--runs 3]

A real mosquitto with mutual TLS, devices with certificates of their own in another process, SQLite with synchronous
FULL on the disk of --folder, or PostgreSQL as it is configured. CPU time counts: of the server's process and of its
workers (which hold the ingest, the commits and the MQTT client), and of the broker's and the database's. Wall time
depends on what else the machine does; broker, devices and server share its cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import ssl
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import sqlalchemy as sa

from edge.fleet.messages import Sender
from edge.fleet.server import enrollment, registry
from edge.fleet.server.authority import read_request
from edge.fleet.server.services import Server
from edge.fleet.server.state import State
from edge.fleet.server.updates.service import Updates


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
        registry.changed(connection, name)
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


def _cpu(pids: Iterable[int]) -> float:
    """CPU seconds of other processes."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _database_pids(server: Server) -> list[int]:
    """PostgreSQL's processes for this database, where they run on this machine."""
    if server.database.is_sqlite:
        return []
    query = sa.text("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
    with server.database.reading() as connection:
        found = connection.scalars(query).all()
    names = {pid: Path(f"/proc/{pid}/comm") for pid in found}
    return [pid for pid, name in names.items() if name.exists() and name.read_text().startswith("postgres")]


def measure(folder: Path, devices: int, reports: int, window: int, workers: int, database: str) -> dict[str, float]:
    state = State.create(folder / "fleet")
    settings = dataclasses.replace(
        state.settings(), host="127.0.0.1", port=23883, boot_port=23884, workers=workers, database=database
    )
    server = Server(state, settings)
    server.extensions = (Updates,)
    server.start()
    try:
        run = os.urandom(3).hex()  # the database may hold an earlier run's
        names = [f"device-{run}-{number}" for number in range(devices)]
        identities = {name: _new_device(server, folder, name) for name in names}
        shares = server.workers.reports() if server.workers else []
        while server.workers and sum(worker.devices for worker in server.workers.reports()) < devices:
            time.sleep(0.1)
        context = multiprocessing.get_context("spawn")
        ready, go = context.Event(), context.Event()
        arguments = (settings.port, server.authority.root_pem, identities, reports, window, ready, go)
        child = context.Process(target=_devices, args=arguments)
        child.start()
        ready.wait()
        workers_pids, broker, others = [each.pid for each in shares], [server.broker_pid or 0], _database_pids(server)
        groups = _count(server, "groups")
        before = [time.process_time(), _cpu(workers_pids), _cpu(broker), _cpu(others)]
        began = time.monotonic()
        go.set()
        child.join()
        wall = time.monotonic() - began
        after = [time.process_time(), _cpu(workers_pids), _cpu(broker), _cpu(others)]
        main, shards, broker_cpu, database_cpu = (b - a for a, b in zip(before, after, strict=True))
        time.sleep(2 if workers > 1 else 0)  # workers say once a second how they do
        committed = _count(server, "committed")
        assert committed >= reports - devices, f"{committed} were committed"
        each = {
            "group": round(reports / (_count(server, "groups") - groups), 1),
            "server_us_per_report": round((main + shards) / reports * 1e6, 1),
            "broker_us_per_report": round(broker_cpu / reports * 1e6, 1),
            "reports_per_server_cpu_second": round(reports / (main + shards)),
            "reports_per_second_of_wall": round(reports / wall),
            "wall_seconds": round(wall, 2),
        }
        if workers > 1:
            each["of_which_the_workers_us"] = round(shards / reports * 1e6, 1)
            # What the workers would take in, each with a core to itself.
            each["reports_per_second_by_cpu_of_the_workers"] = round(workers * reports / shards)
        if others:
            each["database_us_per_report"] = round(database_cpu / reports * 1e6, 1)
        return each
    finally:
        server.stop()


def _count(server: Server, name: str) -> int:
    parts = [server.ingest.counts, *(server.workers.reports() if server.workers else [])]
    return sum(getattr(part, name) for part in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=50)
    parser.add_argument("--reports", type=int, default=20_000)
    parser.add_argument("--window", type=int, default=20, help="reports of a device on their way")
    parser.add_argument("--workers", type=int, default=0, help="as of edge fleet up")
    parser.add_argument("--database", default="", help="URL of a PostgreSQL database; SQLite by default")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the registry lies; a scratch folder by default")
    given = parser.parse_args()
    runs = []
    for _ in range(given.runs):
        with tempfile.TemporaryDirectory(dir=given.folder, prefix="edge-ingest-") as scratch:
            arguments = given.devices, given.reports, given.window, given.workers, given.database
            runs.append(measure(Path(scratch), *arguments))
    figures = {name: [run[name] for run in runs] for name in runs[0]}
    shown = {
        name: {"median": statistics.median(values), "least": min(values), "most": max(values)}
        for name, values in figures.items()
    }
    about = {"workers": given.workers, "reports": given.reports, "devices": given.devices, "runs": given.runs}
    print(json.dumps({**about, "database": "postgresql" if given.database else "sqlite", **shown}, indent=2))


if __name__ == "__main__":
    main()
