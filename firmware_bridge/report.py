"""What a firmware takes of its board: the figures that `edge firmware build` prints, and whether they fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edge.runtime.errors import EdgeError


class DoesNotFit(EdgeError):
    """A model is too large for a board; the message has the numbers and the largest layers."""


@dataclass(frozen=True)
class Layer:
    """A layer of the program.

    Attributes:
        name: Its place and operator, as "17 edge::ternary_linear".
        weight_bytes: Of constants, in flash.
        activation_bytes: Of inputs and outputs, in RAM while it runs.
    """

    name: str
    weight_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class Report:
    """The sizes of a firmware.

    Attributes:
        model, board, target, toolchain: Names.
        operators: Those that the firmware has.
        learning: Whether it can learn.
        code_bytes: Code and tables in flash; `parts` says whose.
        code_room: Flash for code.
        parts: Part of the code to bytes.
        program_bytes: The .pte without its weights.
        weight_bytes: Weights.
        image_bytes: The whole slot image: program, weights, signed manifest, description.
        slot_bytes: Room for it; there are two slots.
        ram_bytes: All of the board's.
        stack_bytes: Reserved for the stack.
        stack_used: The most that was used when an emulated board with this CPU started the firmware and ran the model
            once; None where that could not be measured.
        buffer_bytes: Variables: frames and the device's state.
        state_bytes, arena_bytes, scratch_bytes, packed_bytes: Of the model's block.
        instructions: Of the CPU, of one run; 0 where nothing counted them.
        measured_on: The emulated board of all that was measured.
        layers: Of the program.
        notes: What a person should know, one line each.
    """

    model: str
    board: str
    target: str
    toolchain: str
    operators: tuple[str, ...]
    learning: bool
    code_bytes: int
    code_room: int
    parts: dict[str, int]
    program_bytes: int
    weight_bytes: int
    image_bytes: int
    slot_bytes: int
    ram_bytes: int
    stack_bytes: int
    stack_used: int | None
    buffer_bytes: int
    state_bytes: int
    arena_bytes: int
    scratch_bytes: int
    packed_bytes: int
    instructions: int
    measured_on: str
    layers: tuple[Layer, ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def model_bytes(self) -> int:
        """The block that the model is prepared in."""
        return self.state_bytes + self.arena_bytes + self.scratch_bytes + self.packed_bytes

    @property
    def ram_used(self) -> int:
        """Stack, variables and the model."""
        return self.stack_bytes + self.buffer_bytes + self.model_bytes

    @property
    def flash_used(self) -> int:
        """Code and one slot image."""
        return self.code_bytes + self.image_bytes

    @property
    def ram_left(self) -> int:
        """For learning; negative where the model does not fit."""
        return self.ram_bytes - self.ram_used

    def check(self) -> None:
        """Refuses what does not fit.

        Raises:
            DoesNotFit: Too little flash for the code, too small a slot, too little RAM, or too small a stack.
        """
        where = f"{self.model} does not fit {self.board}"
        if self.code_bytes > self.code_room:
            largest = sorted(self.parts.items(), key=lambda part: -part[1])
            words = ", ".join(f"{name} {count:,}" for name, count in largest[:4])
            raise DoesNotFit(f"{where}: {self.code_bytes:,} bytes of code, room for {self.code_room:,} ({words})")
        if self.image_bytes > self.slot_bytes:
            raise DoesNotFit(
                f"{where}: its image takes {self.image_bytes:,} bytes of flash, a slot has {self.slot_bytes:,}; "
                f"largest layers: {self._largest('weight_bytes')}"
            )
        if self.ram_left < 0:
            raise DoesNotFit(
                f"{where}: {self.ram_used:,} bytes of RAM, there are {self.ram_bytes:,} (stack {self.stack_bytes:,}, "
                f"buffers {self.buffer_bytes:,}, tables {self.state_bytes:,}, arena {self.arena_bytes:,}, scratch "
                f"{self.scratch_bytes:,}, packed weights {self.packed_bytes:,}); "
                f"largest layers: {self._largest('activation_bytes')}"
            )
        if self.stack_used is not None and self.stack_used > self.stack_bytes:
            raise DoesNotFit(
                f"{where}: it uses {self.stack_used:,} bytes of stack, {self.stack_bytes:,} are reserved "
                "(stack_bytes of the board's file)"
            )

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON-ready values."""
        return {
            "model": self.model,
            "board": self.board,
            "target": self.target,
            "toolchain": self.toolchain,
            "operators": list(self.operators),
            "learning": self.learning,
            "flash": {
                "code": self.code_bytes,
                "code_left": self.code_room - self.code_bytes,
                "parts": self.parts,
                "program": self.program_bytes,
                "weights": self.weight_bytes,
                "image": self.image_bytes,
                "slot": self.slot_bytes,
                "slot_left": self.slot_bytes - self.image_bytes,
                "used": self.flash_used,
            },
            "ram": {
                "stack": self.stack_bytes,
                "stack_used": self.stack_used,
                "buffers": self.buffer_bytes,
                "state": self.state_bytes,
                "arena": self.arena_bytes,
                "scratch": self.scratch_bytes,
                "packed": self.packed_bytes,
                "used": self.ram_used,
                "left": self.ram_left,
            },
            "instructions": self.instructions,
            "measured_on": self.measured_on,
            "notes": list(self.notes),
        }

    def _largest(self, what: str) -> str:
        layers = sorted(self.layers, key=lambda layer: -getattr(layer, what))
        return ", ".join(f"{layer.name} ({getattr(layer, what):,} bytes)" for layer in layers[:3])
