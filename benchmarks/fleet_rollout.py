"""Rollouts over simulated devices that are connected: what one costs, how soon it aborts, and what kills do to it.

    python benchmarks/fleet_rollout.py BUNDLE [--devices 2000] [--folder FOLDER] [--kills 6]

BUNDLE is any model for the core, which is published as "kws" 1.0, 2.0 and 3.0. Everything is real: `edge fleet up` and
`edge fleet simulate` in processes of their own, mosquitto with mutual TLS, SQLite with synchronous FULL on the disk of
--folder, TUF, downloads over MQTT, trials on the core.

1. 1.0 goes to all devices at once, which have no model: seconds of planning, of CPU, of wall time.
2. 2.0 is found broken by a tenth of the devices (--fail-share), and 2 % may fail: the time from the moment at which the
   device that crosses the threshold says so, by its own clock, to the entry in the audit log that tells of the abort.
3. 3.0, which the same tenth finds broken, goes to all others in phases while broker, server and simulator are killed in
   turn (SIGKILL) and begun again.

After each, the active bundle of every device is opened and verified. With the checkout on PYTHONPATH; prints JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from processes import children, cpu, wait_for

from edge.fleet.server import tables
from edge.fleet.server.updates.plan import Plan, parse_steps
from tests.fleet.remade import remade
from tests.fleet.simulated import SimulatedFleet

_ABORT_OVER, _FAIL_SHARE = 0.02, 0.1
_LONGEST = 1800.0


class Rollout:
    """A rollout of "kws" and what it took."""

    def __init__(self, fleet: SimulatedFleet, plan: Plan) -> None:
        self._fleet = fleet
        self._server, self._broker = [fleet.server.pid], [fleet.broker_pid]
        self._before = cpu(self._server), cpu(self._broker)
        began, began_cpu = time.monotonic(), time.process_time()
        self.id = fleet.rollouts.create(plan, "bench")
        self.planned, self.planned_cpu = time.monotonic() - began, time.process_time() - began_cpu
        self._began = began

    def state(self) -> str:
        return str(self._fleet.rollouts.show(self.id)["state"])

    def ended(self) -> int:
        """Devices that have come to an end."""
        counts = self._fleet.rollouts.show(self.id)["devices"]
        return int(counts.get("active", 0) + counts.get("failed", 0))

    def wait(self, state: str) -> float:
        """Waits for a state; returns the seconds since the beginning."""
        while (now := self.state()) != state:
            if now not in ("running", "paused") or time.monotonic() - self._began > _LONGEST:
                raise RuntimeError(f"the rollout is {now}: {self._fleet.rollouts.show(self.id)['devices']}")
            time.sleep(0.25)
        return time.monotonic() - self._began

    def cpu(self) -> tuple[float, float]:
        """CPU seconds of server and broker since the beginning."""
        return cpu(self._server) - self._before[0], cpu(self._broker) - self._before[1]


def first(fleet: SimulatedFleet, devices: int) -> dict[str, Any]:
    """1.0 to all at once."""
    rollout = Rollout(fleet, Plan("kws", "1.0"))
    seconds = rollout.wait("done")
    server, broker = rollout.cpu()
    return {
        "plan_seconds": round(rollout.planned, 3),
        "plan_cpu_seconds": round(rollout.planned_cpu, 3),
        "seconds": round(seconds, 1),
        "server_cpu_ms_per_device": round(server / devices * 1e3, 2),
        "broker_cpu_ms_per_device": round(broker / devices * 1e3, 2),
        "devices": fleet.rollouts.show(rollout.id)["devices"],
        "verified": dict(fleet.versions("kws")),
    }


def aborted(fleet: SimulatedFleet) -> dict[str, Any]:
    """2.0, which too many find broken."""
    rollout = Rollout(fleet, Plan("kws", "2.0", abort_over=_ABORT_OVER))
    rollout.wait("aborted")
    shown = fleet.rollouts.show(rollout.id)
    reports, audit = tables.reports, tables.audit
    jobs = sa.select(tables.jobs.c.id).where(tables.jobs.c.kind == "model.update")
    with fleet.database.reading() as connection:
        ended = connection.execute(
            sa.select(audit.c.at, audit.c.detail).where(
                audit.c.action == "rollout.abort", audit.c.subject == rollout.id
            )
        ).one()
        found = connection.execute(
            sa.select(reports.c.at, reports.c.received_at, reports.c.body)
            .where(reports.c.kind.in_(sa.select(sa.literal("job/") + jobs.selected_columns.id)))
            .order_by(reports.c.at)
        )
        failed = [(at, received) for at, received, body in found if json.loads(body)["state"] == "failed"]
    crossing = math.floor(_ABORT_OVER * shown["started"] + 1e-9) + 1
    said_at = failed[crossing - 1][0]
    # Those that were told to drop the model, or kept it, come to an end before anything else is asked of them.
    time.sleep(15)
    return {
        "plan_seconds": round(rollout.planned, 3),
        "reason": ended.detail["reason"],
        "crossing_report": crossing,
        "abort_seconds_after_device_said_so": round(ended.at - said_at, 3),
        "failed_before_abort": sum(received <= ended.at for _, received in failed),
        "devices": fleet.rollouts.show(rollout.id)["devices"],
        "verified": dict(fleet.versions("kws")),
    }


def killed(
    fleet: SimulatedFleet, devices: int, simulation: subprocess.Popen[str], kills: int
) -> tuple[dict[str, Any], subprocess.Popen[str]]:
    """3.0 in phases, while everything is killed in turn; who finds it broken does not stop it."""
    rollout = Rollout(fleet, Plan("kws", "3.0", steps=parse_steps("10%,100%", canary=5), abort_over=1.0))
    victims, without = [], 0
    for number in range(kills):
        # Spread over the rollout: the first while its canaries are busy.
        wait_for(lambda number=number: rollout.ended() >= number * devices / (kills + 1), _LONGEST, "no progress")
        if rollout.state() == "done":
            break
        time.sleep(random.uniform(0, 2))
        victim = ("broker", "server", "devices")[number % 3]
        victims.append(f"{victim} when {rollout.ended()} had ended")
        if victim == "broker":
            fleet.kill_broker()
        elif victim == "server":
            fleet.kill_server()
            fleet.kill_broker()
            fleet.start_server()
        else:
            for pid in children(simulation.pid, "simulate.worker"):
                os.kill(pid, signal.SIGKILL)
            simulation.communicate(timeout=60)
            without = max(without, fleet.versions("kws")[""])  # as the kill has left them, before they start again
            simulation = fleet.simulate(devices, "--fail-share", str(_FAIL_SHARE))
    seconds = rollout.wait("done")
    shown = fleet.rollouts.show(rollout.id)
    return {
        "kills": victims,
        "seconds": round(seconds, 1),
        "devices": shown["devices"],
        "verified": dict(fleet.versions("kws")),
        "devices_without_a_working_model": without,
    }, simulation


def _told(found: dict[str, Any]) -> dict[str, Any]:
    """Tells a part as soon as it is there: all of them take a while."""
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def measure(folder: Path, bundle: Path, devices: int, kills: int) -> dict[str, Any]:
    fleet = SimulatedFleet(folder)
    try:
        for number, version in enumerate(("1.0", "2.0", "3.0")):
            made = remade(bundle, folder / f"{version}.edge", name="kws", version=version, license=f"L{number}")
            fleet.edge("fleet", "publish", str(made))
        fleet.provision(devices)
        simulation = fleet.simulate(devices)
        wait_for(lambda: fleet.online() >= devices, 300 + devices / 4, "not all devices came in")
        found: dict[str, Any] = {"devices": devices, "bundle_bytes": made.stat().st_size}
        found["first"] = _told(first(fleet, devices))
        fleet.end(simulation)
        wait_for(lambda: fleet.online() == 0, 120, "not all went")
        simulation = fleet.simulate(devices, "--fail-share", str(_FAIL_SHARE))
        wait_for(lambda: fleet.online() >= devices, 300 + devices / 4, "not all devices came back")
        found["aborted"] = _told(aborted(fleet))
        found["killed"], simulation = killed(fleet, devices, simulation, kills)
        fleet.end(simulation)
        return found
    finally:
        fleet.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="a .edge with a program for the core and reference inputs")
    parser.add_argument("--devices", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--folder", type=Path, help="where the registry lies; a scratch folder by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="edge-rollout-") as scratch:
        print(json.dumps(measure(Path(scratch), given.bundle, given.devices, given.kills), indent=2))
