"""An agent that reports 1, 2, 3, …, and notes each number once it is in the outbox: `kills.py` runs and kills it.

python -m tests.fleet.counting_agent HOME SECONDS
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from edge.fleet.device import agent as agents
from edge.fleet.device.home import Home
from edge.fleet.inventory import Inventory


def promised(folder: Path) -> int:
    """The last number that the outbox had taken, as far as was noted."""
    try:
        return int((folder / "promised").read_text() or 0)
    except FileNotFoundError:
        return 0


def main() -> None:
    folder, pause = Path(sys.argv[1]), float(sys.argv[2])
    agents._LONGEST_PAUSE, agents._RESEND_SECONDS = 1.0, 2.0
    agent = agents.Agent(Home(folder), Inventory, heartbeat=60)
    threading.Thread(target=agent.run, daemon=True).start()
    number = promised(folder)
    while True:
        number += 1
        agent.telemetry({"number": number})
        with (folder / "promised.new").open("w") as file:
            file.write(str(number))
            file.flush()
            os.fsync(file.fileno())
        os.replace(folder / "promised.new", folder / "promised")
        time.sleep(pause)


if __name__ == "__main__":
    main()
