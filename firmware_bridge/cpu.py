"""The CPUs that firmware is compiled for, and what compilers call them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cpu:
    """A processor core.

    Attributes:
        target: The class that bundles are exported for (edge.runtime.target) and manifests name.
        arch: "arm" or "riscv": which start-up code, and which emulator.
        zig: Options of `zig cc`.
        gcc: Options of the GCC for this architecture.
    """

    target: str
    arch: str
    zig: tuple[str, ...]
    gcc: tuple[str, ...]


def _cortex(name: str, target: str, fpu: str = "", zig_features: str = "", gcc_cpu: str = "") -> Cpu:
    abi = "eabihf" if fpu else "eabi"
    return Cpu(
        target=target,
        arch="arm",
        zig=("-target", f"thumb-freestanding-{abi}", f"-mcpu={name.replace('-', '_')}{zig_features}"),
        gcc=(
            f"-mcpu={gcc_cpu or name}",
            "-mthumb",
            *((f"-mfpu={fpu}", "-mfloat-abi=hard") if fpu else ("-mfloat-abi=soft",)),
        ),
    )


CPUS: dict[str, Cpu] = {
    "cortex-m0": _cortex("cortex-m0", "cortex-m0"),
    "cortex-m3": _cortex("cortex-m3", "cortex-m3"),
    # zig takes no extension from a core's name.
    "cortex-m4": _cortex("cortex-m4", "cortex-m4", "fpv4-sp-d16", "+vfp4d16sp"),
    "cortex-m7": _cortex("cortex-m7", "cortex-m7", "fpv5-sp-d16", "+fp_armv8d16sp"),
    "cortex-m33": _cortex("cortex-m33", "cortex-m33", "fpv5-sp-d16", "+fp_armv8d16sp+dsp"),
    # GCC takes the floating-point unit and MVE from the name.
    "cortex-m55": _cortex("cortex-m55", "cortex-m55", "auto", "+mve_fp+fp_armv8d16sp"),
    "rv32imac": Cpu(
        target="riscv32",
        arch="riscv",
        zig=("-target", "riscv32-freestanding-none", "-mcpu=generic_rv32+m+a+c", "-mabi=ilp32", "-mcmodel=medany"),
        gcc=("-march=rv32imac", "-misa-spec=2.2", "-mabi=ilp32", "-mcmodel=medany"),
    ),
}
