"""`edge device run` that comes back after a second at most: `rollout_kills.py` runs and kills it.

python -m tests.fleet.hasty_device --home HOME …
"""

from __future__ import annotations

import sys

from edge.fleet.device import agent
from edge.sdk.cli import cli

if __name__ == "__main__":
    agent._LONGEST_PAUSE, agent._RESEND_SECONDS = 1.0, 3.0
    cli.main(["device", "run", *sys.argv[1:]])
