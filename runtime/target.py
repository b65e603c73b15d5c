"""The machines that a bundle may be meant for: their processor, memory, and the engines that run there.

A target narrows an export: formats that no engine of the target reads are not written. The table states what
the engines' wheels and the processors' manuals say; it is no measurement.
"""

from dataclasses import asdict, dataclass

from edge.runtime.errors import BadInput
from edge.runtime.manifest import FORMAT_ENGINES


@dataclass(frozen=True)
class Target:
    """A class of machine.

    Attributes:
        name: What `--target` takes.
        title: What people call it.
        cpu: Processor and its architecture version.
        isa: Instruction set extensions that matter to integer kernels, as Linux spells them in /proc/cpuinfo, or, on
            microcontrollers, compilers.
        cores: Number of cores; 0 if it varies.
        ram_mb: Memory of the smallest model in MiB; 0 if it varies.
        engines: Engines with a wheel for it (the core builds from source anywhere).
        note: What a person should know before choosing it.
        layout: How ternary weights lie in its .pte: one of `edge.runtime.layouts.LAYOUTS`. Any core runs any layout;
            a microcontroller reads only its own in place.
    """

    name: str
    title: str
    cpu: str
    isa: tuple[str, ...]
    cores: int
    ram_mb: int
    engines: tuple[str, ...]
    note: str
    layout: str = "rows"

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats that at least one engine of this target reads, for example ("pte",)."""
        return tuple(name for name, engines in FORMAT_ENGINES.items() if set(engines) & set(self.engines))

    def to_dict(self) -> dict[str, object]:
        """The target as JSON-ready values."""
        return {**asdict(self), "formats": list(self.formats)}


def _microcontroller(name: str, title: str, cpu: str, isa: tuple[str, ...], layout: str, note: str) -> Target:
    return Target(name, title, cpu, isa, cores=1, ram_mb=0, engines=("core",), note=note, layout=layout)


_EVERY_ENGINE = ("core", "executorch", "litert", "onnx")

TARGETS: tuple[Target, ...] = (
    Target(
        name="generic",
        title="Any machine",
        cpu="any with CPython 3.10 or later and a C compiler",
        isa=(),
        cores=0,
        ram_mb=0,
        engines=_EVERY_ENGINE,
        note="Writes every format; the device uses what it has installed.",
    ),
    Target(
        name="pi-zero",
        title="Raspberry Pi Zero, Zero W",
        cpu="ARM1176JZF-S, ARMv6",
        isa=("vfp",),
        cores=1,
        ram_mb=512,
        engines=("core",),
        note="No engine but the core has ARMv6 wheels. A Zero 2 W with a 64-bit system is a pi3.",
    ),
    Target(
        name="pi3",
        title="Raspberry Pi 3, Zero 2 W",
        cpu="Cortex-A53, ARMv8.0-A",
        isa=("asimd",),
        cores=4,
        ram_mb=512,
        engines=("core", "litert", "onnx"),
        note="With a 64-bit system. PyTorch, which the ExecuTorch backend imports, is too large for its memory.",
    ),
    Target(
        name="pi4",
        title="Raspberry Pi 4, 400",
        cpu="Cortex-A72, ARMv8.0-A",
        isa=("asimd",),
        cores=4,
        ram_mb=1024,
        engines=_EVERY_ENGINE,
        note="With a 64-bit system.",
    ),
    Target(
        name="pi5",
        title="Raspberry Pi 5, 500",
        cpu="Cortex-A76, ARMv8.2-A",
        isa=("asimd", "asimddp", "asimdhp"),
        cores=4,
        ram_mb=2048,
        engines=_EVERY_ENGINE,
        note="Has the 8-bit dot product (asimddp).",
    ),
    Target(
        name="x86-64",
        title="PC, server",
        cpu="x86-64",
        isa=("sse2",),
        cores=0,
        ram_mb=0,
        engines=_EVERY_ENGINE,
        note="AVX2 and later extensions are used where the machine has them.",
    ),
    _microcontroller(
        "cortex-m0",
        "Microcontroller, Cortex-M0",
        "Cortex-M0, M0+, ARMv6-M",
        (),
        "trits",
        "1.6 bits a weight, read from flash; memory varies by board: edge firmware boards.",
    ),
    _microcontroller(
        "cortex-m3",
        "Microcontroller, Cortex-M3",
        "Cortex-M3, ARMv7-M",
        (),
        "trits",
        "1.6 bits a weight, read from flash.",
    ),
    _microcontroller(
        "cortex-m4",
        "Microcontroller, Cortex-M4",
        "Cortex-M4F, ARMv7E-M",
        ("dsp", "fpv4-sp"),
        "pairs",
        "2 bits a weight, read from flash.",
    ),
    _microcontroller(
        "cortex-m7",
        "Microcontroller, Cortex-M7",
        "Cortex-M7, ARMv7E-M",
        ("dsp", "fpv5-sp"),
        "pairs",
        "Files are those of cortex-m4.",
    ),
    _microcontroller(
        "cortex-m33",
        "Microcontroller, Cortex-M33",
        "Cortex-M33, ARMv8-M Mainline",
        ("dsp", "fpv5-sp"),
        "pairs",
        "With the DSP extension; files are those of cortex-m4.",
    ),
    _microcontroller(
        "cortex-m55",
        "Microcontroller, Cortex-M55",
        "Cortex-M55, ARMv8.1-M Mainline",
        ("mve", "fp-armv8"),
        "planes",
        "Uses the vector extension (Helium).",
    ),
    _microcontroller(
        "riscv32",
        "Microcontroller, RISC-V",
        "RV32IMAC",
        ("m", "a", "c"),
        "trits",
        "1.6 bits a weight, read from flash.",
    ),
)


def find_target(name: str) -> Target:
    """The target called `name`.

    Raises:
        BadInput: There is none; the message lists those there are.
    """
    for target in TARGETS:
        if target.name == name:
            return target
    known = ", ".join(target.name for target in TARGETS)
    raise BadInput(f'there is no target "{name}": choose one of {known}')
