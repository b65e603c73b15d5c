"""What updates cost the server and a device, in seconds of CPU: planning, ticking, reporting, verifying, publishing.

    python benchmarks/fleet_updates.py [--devices 2000 20000] [--variants 1000] [--json FILE]

Devices are rows of a registry (SQLite, as it comes, in a scratch folder); nothing is sent.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.fleet.device.trusted_metadata import TrustedModels
from edge.fleet.server.database import Database
from edge.fleet.server.updates.plan import Plan, parse_steps
from edge.fleet.server.updates.repository import ModelRepository
from edge.fleet.server.updates.rollout import Rollouts
from edge.fleet.variant import Blob, Variant
from tests.fleet.fleets import add_devices, publish_kws, queued


class Served:
    """A repository's files, as a device asks for them."""

    def __init__(self, repository: ModelRepository) -> None:
        self._folder = repository.metadata

    def metadata(self, name: str, most: int) -> bytes | None:
        path = self._folder / name
        return path.read_bytes() if path.exists() else None


def cpu(work: Callable[[], object], times: int = 1) -> float:
    """Seconds of CPU of one call."""
    started = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - started) / times


def rollout(folder: Path, count: int) -> dict[str, Any]:
    """A rollout over `count` devices: a canary of 5, then a tenth, of which all report."""
    database = Database(folder / f"{count}.sqlite")
    publish_kws(database)
    add_devices(database, [f"d{index}" for index in range(count)])
    rollouts = Rollouts(database)
    plan = Plan("kws", "2.0", steps=parse_steps("10%,100%", 5), abort_over=0.02)
    planned = cpu(lambda: rollouts.create(plan, "bench"))
    tick = cpu(rollouts.tick, 10)
    answers: list[tuple[str, str]] = []

    def report() -> None:
        device, job = answers.pop()
        with database.transaction() as connection:
            rollouts.report(connection, device, job, "active", "", {})

    answers.extend(queued(database).items())
    cpu(report, len(answers))
    started = cpu(rollouts.tick)
    answers.extend(queued(database).items())
    reported = cpu(report, len(answers))
    database.close()
    return {
        "devices": count,
        "plan_seconds": planned,
        "tick_seconds": tick,
        "start_phase_seconds": started,
        "report_seconds": reported,
    }


def metadata(folder: Path, count: int) -> dict[str, Any]:
    """A repository of `count` variants: publishing one more, and what a device does to believe it."""
    repository = ModelRepository.create(folder / "tuf")
    repository.publish(
        Variant("kws", f"1.{index}", "bundle", index + 1, "bundle", Blob(f"{index:064x}", 1000), engines=("core",))
        for index in range(count)
    )
    last = Variant("kws", "2.0", "bundle", count + 1, "bundle", Blob("f" * 64, 1000))
    published = cpu(lambda: repository.publish([last]))
    TrustedModels.provision(folder / "trust", repository.trusted_root())
    verified = cpu(lambda: TrustedModels(folder / "trust", Served(repository)).refresh())
    again = cpu(lambda: TrustedModels(folder / "trust", Served(repository)).refresh())
    largest = max(path.stat().st_size for path in repository.metadata.iterdir())
    return {
        "variants": count,
        "targets_bytes": largest,
        "publish_seconds": published,
        "verify_seconds": verified,
        "verify_again_seconds": again,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--variants", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        document = {
            "rollouts": [rollout(folder, count) for count in options.devices],
            "metadata": metadata(folder, options.variants),
        }
    text = json.dumps(document, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
