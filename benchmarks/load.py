"""What it costs to open a model on the core: `python benchmarks/load.py --out FOLDER [--bundle PATH]`.

Each round is a fresh process that imports numpy and edge.runtime, opens a bundle (hashes checked, weights repacked) and
runs it once. Load time is that of the opening; memory is the process's peak (VmHWM: private memory and the pages of
files, libraries included) beyond that of one that only imports numpy, as a multiple of the bundle's size, and beyond
that of one that imports edge.runtime as well. All processes find their modules compiled, as an installed package's are;
of each kind the smallest peak of all rounds counts. Without --bundle: an untrained CCT-7/3x1 that holds its .pte alone.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from results import write

from edge.runtime import Manifest, TensorSpec, file_entry, load, write_bundle
from edge.runtime.manifest import InputSpec
from edge.sdk.console import format_bytes, format_seconds, print_table, progress

_PEAK = "int(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1]) * 1024"
NUMPY = f"import numpy; print({_PEAK})"
IMPORTS = (
    "import numpy as np; from edge.runtime import load; "
    "import edge.runtime._core, edge.runtime.backends.core, edge.runtime.bundle"
)
IDLE = f"{IMPORTS}; print({_PEAK})"
OPEN = f"""
import json, sys, time
{IMPORTS}
start = time.perf_counter()
model = load(sys.argv[1], backend="core", threads=int(sys.argv[2]))
opened = time.perf_counter() - start
model(*[np.zeros(spec.shape, spec.dtype) for spec in model.inputs])
peak = {_PEAK}
program = model._session._program
parts = {{name: getattr(program, f"{{name}}_bytes") for name in ("packed", "arena", "scratch", "state")}}
print(json.dumps({{"seconds": opened, "peak": peak, "parts": parts}}))
"""


def untrained(folder: Path) -> Path:
    """A bundle with a ternary CCT-7/3x1 at 32x32."""
    from edge.export.models import registry
    from edge.export.peers.forms import TERNARY, Architecture
    from edge.export.peers.make import make_peers

    info, form = registry()["cct_7_3x1"], TERNARY["core"]
    kwargs = {"num_classes": info.num_classes, "input_shape": list(info.input_shape)}
    with progress() as display:
        peers = make_peers(Architecture(info.name, kwargs, (1, *info.input_shape)), [form], display)
    if form not in peers.files:
        raise SystemExit(peers.failed[form.title])
    data = peers.files[form].read_bytes()
    with load(peers.files[form], backend="core") as model:
        shapes = model.inputs[0].shape, model.outputs[0].shape
    manifest = Manifest(
        name=info.name,
        version="1.0.0",
        task="image-classification",
        created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        license="unspecified",
        inputs=(InputSpec("input", "float32", shapes[0]),),
        outputs=(TensorSpec("logits", "float32", shapes[1]),),
        files={"model.pte": file_entry(data, ("core", "executorch"))},
    )
    path = folder / f"{info.name}.edge"
    write_bundle(path, manifest, {"model.pte": data})
    return path


def fresh(bytecode: Path, *words: str) -> Any:
    """What a new Python process answers, whose modules are compiled once, to the folder `bytecode`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(bytecode)
    command = [sys.executable, "-c", *words]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def measure(bundle: Path, rounds: int, threads: int) -> dict[str, Any]:
    """Seconds and bytes of opening and running a bundle, with the parts of the core's memory."""
    size = bundle.stat().st_size
    with tempfile.TemporaryDirectory() as folder:
        bytecode = Path(folder)
        opening = (OPEN, str(bundle), str(threads))
        fresh(bytecode, *opening)  # compiles
        numpy_peak, idle_peak = (min(fresh(bytecode, code) for _ in range(rounds)) for code in (NUMPY, IDLE))
        opened = [fresh(bytecode, *opening) for _ in range(rounds)]
    seconds = [round_["seconds"] for round_ in opened]
    peak = min(round_["peak"] for round_ in opened)
    return {
        "bundle": bundle.name,
        "bytes": size,
        "threads": threads,
        "rounds": rounds,
        "load_seconds": {"min": min(seconds), "median": statistics.median(seconds)},
        "numpy_peak_bytes": numpy_peak,
        "peak_beyond_numpy_bytes": peak - numpy_peak,
        "peak_beyond_imports_bytes": peak - idle_peak,
        "core_bytes": opened[0]["parts"],
        "peak_over_size": (peak - numpy_peak) / size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="by default an untrained CCT-7/3x1")
    parser.add_argument("--rounds", type=int, default=15, help="processes (default 15)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"), help="folder for the JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = arguments.bundle or untrained(Path(folder))
        document = measure(bundle, arguments.rounds, arguments.threads)
    seconds = document["load_seconds"]
    print_table(
        ("bundle", "size", "load, min", "load, median", "peak beyond numpy", "of the size", "beyond our imports"),
        [
            (
                document["bundle"],
                format_bytes(document["bytes"]),
                format_seconds(seconds["min"]),
                format_seconds(seconds["median"]),
                format_bytes(document["peak_beyond_numpy_bytes"]),
                f"{document['peak_over_size']:.2f}",
                format_bytes(document["peak_beyond_imports_bytes"]),
            )
        ],
        title=f"Opening a model on the core, {arguments.rounds} processes, {arguments.threads} thread(s)",
    )
    write(arguments.out, "load", document)


if __name__ == "__main__":
    main()
