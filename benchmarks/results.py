"""What the scripts that time engines share: their options, where results go, and how they are told.

parser = options(__doc__)
arguments = parse(parser)
...
write(arguments.out, "models", document)
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from cpu_features import LEVELS, check_hidden, hidden_level, run_script_as

from edge.runtime.bench.machine import describe_machine, machine_line


def options(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser with --rounds, --threads, --out and --cpu."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"timed runs of each engine (default {rounds})")
    parser.add_argument("--threads", type=int, default=1, help="threads of every engine (default 1)")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"), help="folder for the JSON and the plot")
    parser.add_argument("--cpu", choices=LEVELS, help="hide what this CPU has beyond it from every engine")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments; with --cpu, of this script started anew where the features above are hidden."""
    arguments = parser.parse_args()
    run_script_as(arguments.cpu)
    return arguments


def seen_as() -> str:
    """For a plot's title: what --cpu makes of the CPU, or ""."""
    level = hidden_level()
    return f", {level.upper()} (features above it hidden)" if level else ""


def write(folder: Path, name: str, document: dict[str, Any]) -> None:
    """Writes NAME.json with the machine described, and says on what machine this was.

    Raises:
        SystemExit: an engine has run instructions that --cpu hides.
    """
    check_hidden()
    machine = describe_machine()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"machine": machine, **document}, indent=1, allow_nan=False) + "\n")
    print(f"{machine_line(machine)}\n{path}")
