"""The machine that something was measured on, described well enough to judge a figure by."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

_ENGINES = ("numpy", "executorch", "torch", "ai-edge-litert", "tflite-runtime", "onnxruntime")

# Extensions that integer and float kernels are chosen by, as /proc/cpuinfo spells them.
_FEATURES = {
    "sse4_1", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512vnni",
    "amx_int8", "neon", "asimd", "asimddp", "i8mm", "sve", "sve2",
}  # fmt: skip

_CPU_AS = {"avx2": {name for name in _FEATURES if name.startswith(("avx512", "avx_vnni", "amx"))}}
"""What $EDGE_CPU_AS says is hidden from this process: benchmarks/cpu_features.py sets it."""


def describe_machine() -> dict[str, Any]:
    """The processor, its extensions and caches, cores, load, system, and the versions of the engines.

    Returns:
        JSON-ready. What the system does not tell is absent. "load" is the average over the last minute: a figure
        taken while others worked shows by it.
    """
    level = os.environ.get("EDGE_CPU_AS", "")
    described: dict[str, Any] = {
        "cpu": _cpu_name() + (f" as {level.upper()} (features above it hidden)" if level in _CPU_AS else ""),
        "architecture": platform.machine(),
        "features": sorted(_FEATURES & _flags() - _CPU_AS.get(level, set())),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "caches": _caches(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "engines": _versions(),
        "environment": {name: value for name, value in os.environ.items() if name in ("EDGE_ISA", "EDGE_THREADS")},
    }
    if hasattr(os, "getloadavg"):
        described["load"] = round(os.getloadavg()[0], 2)
    return described


def machine_line(machine: dict[str, Any]) -> str:
    """`describe_machine` in one line."""
    caches = ", ".join(f"{name} {size}" for name, size in machine["caches"].items())
    load = f", load {machine['load']:.2f}" if "load" in machine else ""
    parts = [machine["cpu"], f"{machine['cores']} cores{load}", caches, " ".join(machine["features"])]
    return "; ".join(part for part in (*parts, machine["system"]) if part)


def _cpu_name() -> str:
    info = _cpuinfo()
    for key in ("model name", "Model", "Hardware", "cpu model"):
        found = re.search(rf"^{key}\s*: (.+)$", info, re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _flags() -> set[str]:
    found = re.search(r"^(?:flags|Features)\s*: (.+)$", _cpuinfo(), re.MULTILINE)
    return set(found[1].split()) if found else set()


def _cpuinfo() -> str:
    return _text(Path("/proc/cpuinfo"))


def _caches() -> dict[str, str]:
    """{"L1d": "32K", "L2": "1024K", …} of the first core."""
    caches = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_text(folder / name).strip() for name in ("level", "type", "size"))
        if kind != "Instruction" and size:
            caches[f"L{level}{'d' if kind == 'Data' else ''}"] = size
    return caches


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system, or hidden in a container
        return ""


def _versions() -> dict[str, str]:
    versions = {}
    for name in (*_ENGINES, "edge-deploy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
