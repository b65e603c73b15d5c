"""A fleet of simulated devices that are connected at once and report: what it costs, and whether anything is lost.

    python benchmarks/fleet_simulate.py [--devices 5000] [--seconds 300] [--every 30] [--kill] [--folder FOLDER]

`edge fleet up` and `edge fleet simulate` in processes of their own, mosquitto with mutual TLS, SQLite with synchronous
FULL on the disk of --folder. The devices enroll first (with --provision, all but a hundred are given their identities
instead), then report for --seconds; with --kill the broker is killed in the middle, and then the server. At the end the
reports that were sent are counted in the registry. CPU seconds and memory are those of each process, read from /proc; a
core's share is CPU seconds by seconds. With the checkout on PYTHONPATH; prints JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from processes import children, cpu, resident_mb, wait_for

from tests.fleet.simulated import SimulatedFleet

_ENROLLED = 100  # with --provision


def measure(
    folder: Path, devices: int, seconds: float, every: float, processes: int, kill: bool, provision: bool
) -> dict[str, Any]:
    fleet = SimulatedFleet(folder)
    try:
        if provision:
            fleet.provision(devices - _ENROLLED)
        words = ["--every", str(every), *(["--processes", str(processes)] if processes else [])]
        new, began = _ENROLLED if provision else devices, time.monotonic()
        server, broker = [fleet.server.pid], [fleet.broker_pid]
        server_idle = resident_mb(server)
        server_before, broker_before = cpu(server), cpu(broker)
        # Ended by itself, so that what waits is acknowledged first: it is begun with more time than is measured.
        simulation = fleet.simulate(devices, *words, "--for", f"{round(seconds + 20)}s")
        wait_for(lambda: fleet.online() >= devices, 300 + devices / 4, "not all devices came in")
        enrolled = time.monotonic() - began
        enrolling = {"server": cpu(server) - server_before, "broker": cpu(broker) - broker_before}
        workers = children(simulation.pid, "simulate.worker")
        time.sleep(5)

        kept = fleet.reports()
        server_before, broker_before, workers_before = cpu(server), cpu(broker), cpu(workers)
        began, lowest, back = time.monotonic(), devices, {}
        while time.monotonic() - began < seconds:
            time.sleep(5)
            if not kill:
                lowest = min(lowest, fleet.online())
                continue
            if not back and time.monotonic() - began > seconds / 3:
                back = _killed(fleet, devices)
                server, broker = [fleet.server.pid], [fleet.broker_pid]
        lasted = time.monotonic() - began
        at_end, kept = fleet.online(), fleet.reports() - kept
        memory = {
            "server_mb": round(resident_mb(server)),
            "server_mb_without_devices": round(server_idle),
            "broker_mb": round(resident_mb(broker)),
            "simulator_kb_per_device": round(resident_mb(workers) * 1000 / devices, 1),
        }
        used = None
        if not kill:
            used = {
                "server_cpu_share": round((cpu(server) - server_before) / lasted, 4),
                "broker_cpu_share": round((cpu(broker) - broker_before) / lasted, 4),
                "simulator_cpu_share": round((cpu(workers) - workers_before) / lasted, 4),
                "server_us_per_report": round((cpu(server) - server_before) / kept * 1e6, 1),
                "broker_us_per_report": round((cpu(broker) - broker_before) / kept * 1e6, 1),
            }
        told = fleet.ended(simulation, 300)
        telemetry, others = fleet.reports(), sum(fleet.reports(kind) for kind in ("hello", "csr"))
        return {
            "devices": devices,
            "seconds": round(lasted),
            "every": every,
            "connected_at_end": at_end,
            "fewest_connected": None if kill else lowest,
            "reports_committed": telemetry,
            "reports_lost": told["sent"] - told["unacknowledged"] - telemetry - others,
            "unacknowledged": told["unacknowledged"],
            "sent_again": told["resent"],
            "reconnects": told["reconnects"],
            **({"after_kill_seconds": back} if kill else {}),
            "coming_in": {
                "of_them_enrolled": new,
                "seconds": round(enrolled, 1),
                "server_cpu_seconds": round(enrolling["server"], 2),
                "broker_cpu_seconds": round(enrolling["broker"], 2),
            },
            "memory": memory,
            "cpu": used,
        }
    finally:
        fleet.stop()


def _killed(fleet: SimulatedFleet, devices: int) -> dict[str, float]:
    """Kills the broker, then server and broker; returns the seconds until all devices had been heard of again."""
    found = {}
    for victim in ("broker", "server_and_broker"):
        moment, began = time.time(), time.monotonic()
        if victim == "broker":
            fleet.kill_broker()
        else:
            fleet.kill_server()
            fleet.kill_broker()
            fleet.start_server()
        wait_for(lambda moment=moment: fleet.heard_of(moment) >= devices, 600, f"not all came back: {victim}")
        found[victim] = round(time.monotonic() - began, 1)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--every", type=float, default=30)
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--provision", action="store_true", help="do not have all of them enroll")
    parser.add_argument("--kill", action="store_true", help="kill the broker, and then the server, in the middle")
    parser.add_argument("--folder", type=Path, help="where the registry lies; a scratch folder by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="edge-simulate-") as scratch:
        found = measure(
            Path(scratch), given.devices, given.seconds, given.every, given.processes, given.kill, given.provision
        )
        print(json.dumps(found, indent=2))
