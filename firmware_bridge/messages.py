"""Commands, statuses and the bodies of frames, as messages.h and commands.c of the firmware have them."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from edge.firmware_bridge.operators import unpack_operators
from edge.runtime.errors import BadFile
from edge.runtime.manifest import TensorSpec

NO_SLOT = 0xFF
FIRST_AUTHENTICATED = 0x40
LEARN_ALL_LAYERS = 0xFFFFFFFF


class Command(IntEnum):
    """What a host asks for. From `BEGIN` on, commands change the device's state and are authenticated."""

    INFO = 0x01
    PORT = 0x02
    CHALLENGE = 0x03
    DESCRIPTION = 0x04
    TROUBLE = 0x05
    STATS = 0x06
    VERIFY = 0x07
    INPUT = 0x10
    RUN = 0x11
    OUTPUT = 0x12
    PROFILE = 0x13
    GET_WEIGHTS = 0x14
    LEARN_BUDGET = 0x15
    BEGIN = 0x40
    CHUNK = 0x41
    END = 0x42
    ACTIVATE = 0x43
    ROLL_BACK = 0x44
    RESET = 0x45
    START_LEARNING = 0x46
    LEARN = 0x47
    SET_WEIGHTS = 0x48
    TAKE_WEIGHTS = 0x49
    KEEP_WEIGHTS = 0x4A
    FORGET_WEIGHTS = 0x4B


class Status(IntEnum):
    """Why a command was refused."""

    DONE = 0
    WRONG_VERSION = 1
    UNKNOWN_COMMAND = 2
    WRONG_LENGTH = 3
    OUT_OF_RANGE = 4
    SEQUENCE_REUSED = 5
    NO_IDENTITY = 8
    NOT_CHALLENGED = 9
    REPLAYED = 10
    NOT_AUTHENTIC = 11
    NO_TRANSFER = 16
    WRONG_OFFSET = 17
    STORAGE_FAILED = 18
    NOT_COMPLETE = 19
    SLOT_IN_USE = 20
    NO_IMAGE = 32
    WRONG_FORMAT = 33
    WRONG_ABI = 34
    UNKNOWN_KEY = 35
    BROKEN_SIGNATURE = 36
    STALE = 37
    WRONG_BOARD = 38
    EXPIRED = 39
    TOO_LARGE = 40
    WRONG_HASH = 41
    BAD_PROGRAM = 42
    NO_MEMORY = 43
    SELF_TEST = 44
    TRIAL_STOPPED = 45
    TRIAL_PASSED = 46
    NO_MODEL = 64
    NO_INPUT = 65
    RUN_FAILED = 66
    CANNOT_LEARN = 67
    NO_PROFILE = 68


def status_text(status: int) -> str:
    """A status in words, for a table."""
    if status == Status.DONE:
        return "none"
    try:
        return Status(status).name.lower().replace("_", " ")
    except ValueError:
        return f"status {status}"


# edge_dtype of the core, numbered as ExecuTorch's ScalarType.
DTYPES = {
    0: "uint8",
    1: "int8",
    2: "int16",
    3: "int32",
    4: "int64",
    6: "float32",
    7: "float64",
    11: "bool",
}

_INFO = struct.Struct("<4H5I8B5I16s8s32s16s2H5I24s24s24s")
_BUDGET = struct.Struct("<9I")
_STATS = struct.Struct("<9I")
_LESSON = struct.Struct("<IfI")
PLAN = struct.Struct("<IIfI")


@dataclass(frozen=True)
class Info:
    """What a device says of itself.

    Args:
        protocol, abi: versions of the protocol, and of the programs that its core runs.
        chunk_bytes: the most that one frame carries.
        program_bytes_unit, erase_bytes, slot_bytes, learned_bytes: of its storage.
        memory_bytes, block_bytes: for models, and what the running one takes of it.
        active, trial, running: slots, or None.
        trial_boots, trial_result: starts of the model on trial; how the last trial ended.
        trouble: why no model runs, or not the one that should.
        has_identity: whether it was given a secret and keys.
        learning: whether it runs with trainable weights.
        floor: the highest sequence that was confirmed; only higher ones are taken.
        active_sequence, running_sequence, trial_sequence: of the images in those slots.
        commits: records in its log so far.
        device_id: 16 bytes.
        model_digest: the first 8 bytes of the SHA-256 of the running model's payload.
        model, model_version: names out of its manifest.
        inputs, outputs, instructions: counts, of the running program.
        input_bytes, output_bytes: of all ports.
        program_bytes, description_bytes: of the running image.
        target, board, firmware: names.
        operators: that the firmware was built with; () where it has all, or does not say.
    """

    protocol: int
    abi: int
    chunk_bytes: int
    unit_bytes: int
    erase_bytes: int
    slot_bytes: int
    learned_bytes: int
    memory_bytes: int
    block_bytes: int
    active: int | None
    trial: int | None
    running: int | None
    trial_boots: int
    trial_result: int
    trouble: int
    has_identity: bool
    learning: bool
    floor: int
    active_sequence: int
    running_sequence: int
    trial_sequence: int
    commits: int
    device_id: bytes
    model_digest: bytes
    model: str
    model_version: str
    inputs: int
    outputs: int
    instructions: int
    input_bytes: int
    output_bytes: int
    program_bytes: int
    description_bytes: int
    target: str
    board: str
    firmware: str
    operators: tuple[str, ...] = ()

    @classmethod
    def unpack(cls, body: bytes) -> Info:
        """Reads the answer to INFO; a later version's may be longer.

        Raises:
            BadFile: it is shorter than this version's, or says what cannot be.
        """
        if len(body) < _INFO.size:
            raise BadFile(f"the device's info has {len(body)} bytes, {_INFO.size} are expected")
        fields: list[Any] = list(_INFO.unpack_from(body))
        fields[9:12] = [None if slot == NO_SLOT else slot for slot in fields[9:12]]
        fields[15:17] = map(bool, fields[15:17])
        for index in (24, 25, 33, 34, 35):
            fields[index] = _text(fields[index])
        fields.append(unpack_operators(body[_INFO.size :]))
        made = cls(*fields)
        if made.chunk_bytes not in range(256, 1025) or made.unit_bytes not in (4, 8, 16) or made.inputs > 64:
            raise BadFile("the device's info is damaged")
        return made


def _unpacked(layout: struct.Struct, body: bytes, damaged: str) -> tuple[Any, ...]:
    """The fields at the beginning of an answer, which a later version may make longer."""
    if len(body) < layout.size:
        raise BadFile(damaged)
    return layout.unpack_from(body)


def _text(field: bytes) -> str:
    text = field.partition(b"\0")[0].decode("ascii", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)


def unpack_port(body: bytes, name: str) -> TensorSpec:
    """Reads the answer to PORT.

    Raises:
        BadFile: it is no tensor's.
    """
    if len(body) < 8 or body[1] > 8 or len(body) != 8 + 4 * body[1] or body[0] not in DTYPES:
        raise BadFile("the device's description of a tensor is damaged")
    shape = struct.unpack_from(f"<{body[1]}i", body, 8)
    if any(size < 1 for size in shape) or math.prod(shape) > 1 << 31:
        raise BadFile("the device's description of a tensor is damaged")
    return TensorSpec(name, DTYPES[body[0]], shape)


@dataclass(frozen=True)
class Stats:
    """Counts since the device started: frames, of them damaged, repeated and refused; runs, chunks, lessons.

    Args:
        last_ticks: of the last run.
        ticks: of the board's counter, which wraps.
    """

    frames: int
    damaged: int
    repeated: int
    refused: int
    runs: int
    chunks: int
    lessons: int
    last_ticks: int
    ticks: int

    @classmethod
    def unpack(cls, body: bytes) -> Stats:
        """Reads the answer to STATS.

        Raises:
            BadFile: it is too short.
        """
        return cls(*_unpacked(_STATS, body, "the device's statistics are damaged"))


@dataclass(frozen=True)
class OpTicks:
    """An operator in a profiled run: its name, ticks, multiply-accumulates, shape of its first output."""

    op: str
    ticks: int
    macs: int
    shape: tuple[int, ...]


def unpack_profile(body: bytes) -> list[OpTicks]:
    """Reads an answer to PROFILE.

    Raises:
        BadFile: it is damaged.
    """
    made, at = [], 0
    try:
        while at < len(body):
            ticks, macs, rank, length = struct.unpack_from("<IIBB", body, at)
            shape = struct.unpack_from(f"<{rank}i", body, at + 10)
            at += 10 + 4 * rank
            name = body[at : at + length].decode("ascii")
            at += length
            if at > len(body):
                raise ValueError
            made.append(OpTicks(name, ticks, macs, shape))
    except (struct.error, ValueError):
        raise BadFile("the device's profile is damaged") from None
    return made


@dataclass(frozen=True)
class LearnBudget:
    """Memory that learning takes, in bytes, and what it learns: see runtime/core/learn/learn.h.

    Args:
        room_bytes: behind the model; learning is refused where `total_bytes` is more.
        body: instructions that run before the trainable layers.
    """

    total_bytes: int
    weight_bytes: int
    activation_bytes: int
    gradient_bytes: int
    layers: int
    classes: int
    parameters: int
    body: int
    room_bytes: int

    @classmethod
    def unpack(cls, body: bytes) -> LearnBudget:
        """Reads the answer to LEARN_BUDGET and START_LEARNING.

        Raises:
            BadFile: it is too short.
        """
        return cls(*_unpacked(_BUDGET, body, "the device's learning budget is damaged"))


@dataclass(frozen=True)
class Lesson:
    """What the device knew of a sample before it learned it.

    Args:
        predicted: the class that it took it for.
        fit: with cross-entropy, the probability of the true class; with the squared loss, the loss.
        samples: learned so far.
    """

    predicted: int
    fit: float
    samples: int

    @classmethod
    def unpack(cls, body: bytes) -> Lesson:
        """Reads the answer to LEARN.

        Raises:
            BadFile: it is too short.
        """
        return cls(*_unpacked(_LESSON, body, "the device's answer to a lesson is damaged"))
