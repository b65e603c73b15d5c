"""What it costs to open a model on the core: `python benchmarks/load.py --out FOLDER [--bundle PATH]`.

Each round is a fresh process that imports numpy and edge.runtime, opens a bundle (hashes checked, weights repacked) and
runs it once. Load time is that of the opening; memory is the process's peak beyond that of one that only imports numpy,
as a multiple of the bundle's size, and beyond that of one that imports edge.runtime as well. Without --bundle: an
untrained CCT-7/3x1 that holds its .pte alone. Linux only.
"""

from __future__ import annotations

import argparse
import json
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
print(json.dumps({{"seconds": opened, "peak": {_PEAK}}}))
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


def fresh(*words: str) -> Any:
    """What a new Python process answers."""
    return json.loads(subprocess.run([sys.executable, "-c", *words], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="by default an untrained CCT-7/3x1")
    parser.add_argument("--rounds", type=int, default=15, help="processes (default 15)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"), help="folder for the JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = arguments.bundle or untrained(Path(folder))
        size = bundle.stat().st_size
        numpy_peak, idle_peak = (
            statistics.median(fresh(code) for _ in range(arguments.rounds)) for code in (NUMPY, IDLE)
        )
        opened = [fresh(OPEN, str(bundle), str(arguments.threads)) for _ in range(arguments.rounds)]
    seconds = [round_["seconds"] for round_ in opened]
    peak = statistics.median(round_["peak"] for round_ in opened)
    beyond = peak - numpy_peak
    print_table(
        ("bundle", "size", "load, min", "load, median", "peak beyond numpy", "of the size", "beyond our imports"),
        [
            (
                bundle.name,
                format_bytes(size),
                format_seconds(min(seconds)),
                format_seconds(statistics.median(seconds)),
                format_bytes(int(beyond)),
                f"{beyond / size:.2f}",
                format_bytes(int(peak - idle_peak)),
            )
        ],
        title=f"Opening a model on the core, {arguments.rounds} processes, {arguments.threads} thread(s)",
    )
    document = {
        "bundle": bundle.name,
        "bytes": size,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "load_seconds": {"min": min(seconds), "median": statistics.median(seconds)},
        "numpy_peak_bytes": numpy_peak,
        "peak_beyond_numpy_bytes": beyond,
        "peak_beyond_imports_bytes": peak - idle_peak,
        "peak_over_size": beyond / size,
    }
    write(arguments.out, "load", document)


if __name__ == "__main__":
    main()
