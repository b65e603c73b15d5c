"""A Linux device's inventory: what the kernel, Python and edge say about it. Reading it takes milliseconds."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from edge.fleet.inventory import Inventory

# Of the dozens of flags that a processor has, those by which an engine's speed or a model's fit may be decided.
_FEATURES = (
    *("neon", "asimd", "asimddp", "i8mm", "sve", "sve2", "bf16", "fphp", "asimdhp"),
    *("sse4_1", "sse4_2", "avx", "avx2", "f16c", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"),
)
_ENGINES = {
    "litert": "ai-edge-litert",
    "tflite": "tflite-runtime",
    "onnx": "onnxruntime",
    "executorch": "executorch",
}
# A Zero 2 has the processor of a Pi 3.
_RASPBERRIES = {"Pi 5": "pi5", "Pi 4": "pi4", "Pi 3": "pi3", "Pi Zero 2": "pi3", "Pi Zero": "pi-zero"}
_NOT_A_WORD = re.compile(r"[^A-Za-z0-9 .,:;/_+()@-]")


def linux_inventory(
    labels: Mapping[str, str] | None = None, sensors: tuple[str, ...] = (), boards: tuple[str, ...] = ()
) -> Inventory:
    """This machine.

    Args:
        labels: what was said about it on its command line.
        sensors: the same, beside those that the kernel knows.
        boards: ids of the boards behind it.
    """
    cpu, features = _cpu(_read("/proc/cpuinfo"))
    edge = _version("edge-deploy")
    engines = {name: _version(package) for name, package in _ENGINES.items()}
    return Inventory(
        kind="linux",
        arch=_word(platform.machine()),
        cpu=cpu,
        features=features,
        cores=os.cpu_count() or 1,
        ram_kb=_memory(_read("/proc/meminfo")),
        os=_os(_read("/etc/os-release")),
        python=_word(platform.python_version()),
        edge=edge,
        runtimes={name: version for name, version in {"core": edge or "unknown", **engines}.items() if version},
        sensors=tuple(sorted({*_sensors(), *sensors})),
        labels=dict(labels or {}),
        boards=boards,
        target=_target(_read("/proc/device-tree/model")),
    )


def _cpu(cpuinfo: str) -> tuple[str, tuple[str, ...]]:
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    name = fields.get("model name") or fields.get("Model") or platform.processor() or platform.machine()
    return _word(name), tuple(flag for flag in _FEATURES if flag in flags)


def _memory(meminfo: str) -> int:
    match = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    return int(match[1]) if match else 0


def _os(release: str) -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', release, re.MULTILINE)
    return _word(match[1] if match else platform.system())


def _sensors() -> set[str]:
    """What can hear, see and feel: ALSA's capture devices, Video4Linux, industrial I/O."""
    found = set()
    if any(Path("/dev/snd").glob("pcmC*D*c")):
        found.add("microphone")
    if any(Path("/dev").glob("video*")):
        found.add("camera")
    for name in Path("/sys/bus/iio/devices").glob("iio:device*/*_raw"):
        for part, sensor in (("accel", "accelerometer"), ("anglvel", "gyroscope"), ("temp", "thermometer")):
            if part in name.name:
                found.add(sensor)
    return found


def _target(model: str) -> str:
    """The target in `edge.runtime.target` that a Raspberry Pi's device tree names."""
    for pattern, target in _RASPBERRIES.items():
        if pattern in model:
            return target
    return ""


def _version(package: str) -> str:
    try:
        return _word(metadata.version(package))
    except metadata.PackageNotFoundError:
        return ""


def _word(text: str) -> str:
    """`text` as an inventory takes it."""
    return _NOT_A_WORD.sub(" ", text).lstrip(" .,:;/_+()@-").rstrip(" .,:;/_+(@-")[:100]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")[:100_000]
    except OSError:
        return ""
