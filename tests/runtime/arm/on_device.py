"""Runs on the device: every program of a folder on all kernels and 1 and 2 threads, and the bundle: to outputs.npz.

    python on_device.py FOLDER

FOLDER holds NAME.pte with NAME.npz (its inputs in order), and digits.edge with digits.npz. Prints what it found, as
JSON.
"""

import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path

import numpy as np

import edge.runtime
from edge.runtime import _core

folder = Path(sys.argv[1])
best = {}
outputs = {}
for path in sorted(folder.glob("*.pte")):
    inputs = list(np.load(path.with_suffix(".npz")).values())
    best[path.stem] = _core.Program(path.read_bytes()).isa
    for isa in _core.isas():
        os.environ["EDGE_ISA"] = isa
        for threads in (1, 2):
            program = _core.Program(path.read_bytes(), threads)
            assert program.isa == isa
            for at, output in enumerate(program.run(inputs)):
                outputs[f"{path.stem} {at} {isa} {threads}"] = output
        del os.environ["EDGE_ISA"]
with edge.runtime.load(folder / "digits.edge") as model:
    backend = model.backend
    for at, image in enumerate(np.load(folder / "digits.npz")["images"]):
        outputs[f"digits {at}"] = model(image)
np.savez(folder / "outputs.npz", **outputs)
found = {
    "backend": backend,
    "best": best,
    "core": _core.__file__,
    "isas": _core.isas(),
    "libc": platform.libc_ver(),
    "machine": platform.machine(),
    "numpy": np.__version__,
    "packages": sorted(each.metadata["Name"].lower() for each in importlib.metadata.distributions()),
    "python": platform.python_version(),
}
print(json.dumps(found))
