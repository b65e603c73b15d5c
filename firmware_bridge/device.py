"""A device at the other end of a link: what it is, its models, and running them."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType

from edge.firmware_bridge.errors import LinkLost, Refused
from edge.firmware_bridge.link import Link
from edge.firmware_bridge.messages import (
    PLAN,
    Command,
    Info,
    LearnBudget,
    Lesson,
    OpTicks,
    Stats,
    Status,
    status_text,
    unpack_port,
    unpack_profile,
)
from edge.firmware_bridge.port import BAUD, Port, open_port
from edge.firmware_bridge.signature import FirmwareKey, read_key
from edge.firmware_bridge.slot_image import MANIFEST_BYTES, MAX_DESCRIPTION_BYTES, SlotManifest, check_image
from edge.runtime.errors import BadFile, BadInput
from edge.runtime.manifest import TensorSpec

_U32 = struct.Struct("<I")
# Erasing a slot of a slow flash, checking a signature and a hash on a slow processor.
_SLOW_SECONDS = 60.0
_RUN_SECONDS = 120.0
_MAX_PORT_BYTES = 1 << 24


class Device:
    """A board with our firmware. Made by `open`; for one thread at a time; closed by `close` or a `with` block."""

    def __init__(self, port: Port, address: str, key: FirmwareKey | None = None) -> None:
        """Meets the device at an open port.

        Args:
            key: the owner's, for what changes the device.

        Raises:
            LinkLost: nothing answers.
            Refused: its firmware speaks another version of the protocol.
        """
        self._link = Link(port, address)
        self.address = address
        self.info = self.read_info()
        if key is not None:
            self._link.give_secret(key.device_secret(self.info.device_id))

    @classmethod
    def open(cls, address: str, key: FirmwareKey | Path | str | None = None, *, baud: int = BAUD) -> Device:
        """Opens the port at an address (`edge.firmware_bridge.port`) and meets the device there.

        Raises:
            BadFile, BadInput: the address or the key file is wrong.
            LinkLost: the port is busy or gone, or nothing answers.
            Refused: its firmware speaks another version of the protocol.
        """
        owner = read_key(Path(key)) if isinstance(key, (Path, str)) else key
        port = open_port(address, baud=baud)
        try:
            return cls(port, address, owner)
        except BaseException:
            port.close()
            raise

    def close(self) -> None:
        """Closes the port."""
        self._link.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- what it is ---

    @property
    def retries(self) -> int:
        """Requests that were sent again because no answer came."""
        return self._link.retries

    def read_info(self, timeout: float = 10.0) -> Info:
        """What the device says of itself now; `info` holds it too."""
        self.info = Info.unpack(self._link.ask(Command.INFO, timeout=timeout))
        return self.info

    def trouble(self) -> str:
        """Why no model runs, or not the one that was tried; "" if all is well."""
        return self._link.ask(Command.TROUBLE).decode("ascii", "replace")

    def stats(self) -> Stats:
        """Counts since the device started."""
        return Stats.unpack(self._link.ask(Command.STATS))

    def ports(self) -> tuple[list[TensorSpec], list[TensorSpec]]:
        """The running model's inputs and outputs.

        Raises:
            Refused: no model runs.
        """
        found: tuple[list[TensorSpec], list[TensorSpec]] = ([], [])
        for output, (name, count) in enumerate((("input", self.info.inputs), ("output", self.info.outputs))):
            for index in range(count):
                body = self._link.ask(Command.PORT, bytes((output, index)))
                found[output].append(unpack_port(body, f"{name}_{index}"))
        return found

    def description(self) -> bytes:
        """What the running image says to the host (`slot_image.description_of`); empty if nothing."""
        size = self.info.description_bytes
        if size > MAX_DESCRIPTION_BYTES:
            raise BadFile(f"{self.address}: a description of {size:,} bytes; {MAX_DESCRIPTION_BYTES:,} are read")
        return self._read_all(Command.DESCRIPTION, size)

    # --- models ---

    def verify(self, slot: int) -> None:
        """Has the device check a slot: signature, hash, fit.

        Raises:
            Refused: it would not run what is there.
        """
        self._link.ask(Command.VERIFY, bytes((slot,)), timeout=_SLOW_SECONDS)

    def send_image(self, image: bytes, progress: Callable[[int, int], object] = lambda done, total: None) -> int:
        """Writes a slot image into the slot that is free; goes on where an earlier transfer of it was cut.

        Args:
            progress: called with bytes done and in all.

        Returns:
            The slot.

        Raises:
            BadFile: the image is damaged, or has expired.
            Refused: the device does not want it (it says why), or its storage fails.
        """
        _check_expiry(check_image(image))
        for attempt in range(3):
            slot, done, total = self._begin(image)
            try:
                while done < total:
                    progress(done, total)
                    piece = image[done : done + self.info.chunk_bytes]
                    body = _U32.pack(done) + piece
                    (done,) = _U32.unpack_from(self._link.ask(Command.CHUNK, body, timeout=_SLOW_SECONDS))
                progress(total, total)
                self._link.ask(Command.END, timeout=_SLOW_SECONDS)
                return slot
            except Refused as refusal:
                # It started again, or what storage kept of an earlier transfer was torn: it knows where to go on.
                again = (Status.NO_TRANSFER, Status.WRONG_OFFSET, Status.WRONG_HASH)
                if refusal.status not in again or attempt == 2:
                    raise
        raise AssertionError

    def _begin(self, image: bytes) -> tuple[int, int, int]:
        body = self._link.ask(Command.BEGIN, image[:MANIFEST_BYTES], timeout=_SLOW_SECONDS)
        if len(body) != 12:
            raise BadFile(f"{self.address}: the device's answer is damaged")
        slot, done, total = struct.unpack("<3I", body)
        if total != len(image) or not MANIFEST_BYTES <= done <= total:
            raise BadFile(f"{self.address}: the device expects {total:,} bytes of an image of {len(image):,}")
        return slot, done, total

    def activate(self, slot: int, sequence: int) -> None:
        """Has the device try the image of `sequence` in `slot` at its next start.

        Raises:
            Refused: the device will not run it; it says why.
        """
        self._link.ask(Command.ACTIVATE, struct.pack("<II", slot, sequence), timeout=_SLOW_SECONDS)

    def roll_back(self) -> None:
        """Has the device go back at its next start to the model that it had before, or drop the one on trial.

        Raises:
            Refused: there is none to go back to.
        """
        info = self.read_info()
        sequence = info.active_sequence if info.trial is None else info.trial_sequence
        self._link.ask(Command.ROLL_BACK, _U32.pack(sequence), timeout=_SLOW_SECONDS)

    def reset(self) -> Info:
        """Starts the device again and waits until it answers."""
        self._link.ask(Command.RESET)
        return self.wait_until_up()

    def wait_until_up(self, timeout: float = _SLOW_SECONDS) -> Info:
        """Waits for an answer of a device that starts."""
        time.sleep(0.02)
        return self.read_info(timeout)

    def flash(self, image: bytes, progress: Callable[[int, int], object] = lambda done, total: None) -> Info:
        """Sends an image, activates it, starts the device again, and checks that it runs what was sent.

        Where the device has it already and runs it, nothing is done.

        Raises:
            BadFile: the image is damaged.
            Refused: the device does not want it, or tried it and went back to the model before; it says why.
        """
        manifest = check_image(image)
        info = self.read_info()
        if info.running_sequence == manifest.sequence and info.model_digest == manifest.sha256[:8]:
            return info
        if info.trial is None or info.trial_sequence != manifest.sequence:
            slot = self.send_image(image, progress)
            self.activate(slot, manifest.sequence)
        info = self.reset()
        for _ in range(4):  # the power may fail in a trial
            if info.trial is None:
                break
            info = self.reset()
        if info.running_sequence == manifest.sequence and info.model_digest == manifest.sha256[:8]:
            return info
        why = self.trouble() or status_text(info.trial_result)
        raise Refused(
            f"{self.address}: the device tried the new model and went back to the one before: {why}", info.trial_result
        )

    # --- running ---

    def write_inputs(self, data: bytes) -> None:
        """Sends all inputs, one after the other, for the next run or lesson."""
        if len(data) != self.info.input_bytes:
            raise BadInput(f"{self.address}: {len(data):,} bytes of input; the model takes {self.info.input_bytes:,}")
        for at in range(0, len(data), self.info.chunk_bytes):
            self._link.ask(Command.INPUT, _U32.pack(at) + data[at : at + self.info.chunk_bytes])

    def run(self) -> tuple[bytes, int]:
        """Runs the model on the inputs that were sent.

        Returns:
            All outputs, one after the other, and the board's ticks that it took.

        Raises:
            Refused: the inputs have not come, or the model refuses their values.
        """
        head, body = self._run(profiled=False)
        _, size = head
        while len(body) < size:
            more = self._link.ask(Command.OUTPUT, _U32.pack(len(body)))
            if not more or len(body) + len(more) > size:
                raise BadFile(f"{self.address}: the device's output is damaged")
            body += more
        return body, head[0]

    def profile(self) -> list[OpTicks]:
        """Runs the program on the inputs that were sent and gives each operator's ticks.

        Raises:
            Refused: there is no memory for it behind the model.
        """
        self._run(profiled=True)
        found: list[OpTicks] = []
        while more := unpack_profile(self._link.ask(Command.PROFILE, _U32.pack(len(found)))):
            found += more
        return found

    def _run(self, profiled: bool) -> tuple[tuple[int, int], bytes]:
        body = self._link.ask(Command.RUN, bytes((profiled,)), timeout=_RUN_SECONDS)
        if len(body) < 8:
            raise BadFile(f"{self.address}: the device's answer is damaged")
        ticks, size = struct.unpack_from("<II", body)
        if size > _MAX_PORT_BYTES:
            raise BadFile(f"{self.address}: the device's answer is damaged")
        return (ticks, size), body[8:]

    # --- learning ---

    def learn_budget(self, layers: int, classes: int = 0, rate: float = 0.01, loss: int = 0) -> LearnBudget:
        """The memory that learning would take.

        Args:
            layers: from the output back; `messages.LEARN_ALL_LAYERS` for all.
            classes: outputs; 0 for the program's.

        Raises:
            Refused: the model has no such layers.
        """
        return LearnBudget.unpack(self._link.ask(Command.LEARN_BUDGET, PLAN.pack(layers, classes, rate, loss)))

    def start_learning(self, layers: int, classes: int = 0, rate: float = 0.01, loss: int = 0) -> LearnBudget:
        """Makes the last layers trainable, from the program's weights on; arguments as of `learn_budget`.

        Raises:
            Refused: the model has no such layers, or there is no memory for them.
        """
        body = self._link.ask(Command.START_LEARNING, PLAN.pack(layers, classes, rate, loss))
        self.read_info()
        return LearnBudget.unpack(body)

    def learn_class(self, index: int, rate: float) -> Lesson:
        """One step on the inputs that were sent, which are of this class."""
        body = struct.pack("<BfI", 0, rate, index)
        return Lesson.unpack(self._link.ask(Command.LEARN, body, timeout=_RUN_SECONDS))

    def learn_target(self, target: bytes, rate: float) -> Lesson:
        """One step on the inputs that were sent, whose outputs should be these float32."""
        body = struct.pack("<Bf", 1, rate) + target
        return Lesson.unpack(self._link.ask(Command.LEARN, body, timeout=_RUN_SECONDS))

    def read_weights(self) -> bytes:
        """The trainable weights as they are, in the format of learn.h.

        Raises:
            Refused: learning was not started.
        """
        body = self._link.ask(Command.GET_WEIGHTS, _U32.pack(0))
        weights = body[4:]
        (size,) = _U32.unpack_from(body) if len(body) >= 4 else (0,)
        if not 0 < size <= _MAX_PORT_BYTES:
            raise BadFile(f"{self.address}: the device's answer is damaged")
        while len(weights) < size:
            more = self._link.ask(Command.GET_WEIGHTS, _U32.pack(len(weights)))[4:]
            if not more:
                raise BadFile(f"{self.address}: the device's answer is damaged")
            weights += more
        return weights[:size]

    def write_weights(self, weights: bytes) -> None:
        """Has the device run with these weights from now on, and after each start.

        Raises:
            Refused: they are damaged or another program's, or do not fit.
        """
        for at in range(0, len(weights), self.info.chunk_bytes):
            piece = weights[at : at + self.info.chunk_bytes]
            self._link.ask(Command.SET_WEIGHTS, _U32.pack(at) + piece, timeout=_SLOW_SECONDS)
        self._link.ask(Command.TAKE_WEIGHTS, timeout=_SLOW_SECONDS)
        self.read_info()

    def keep_weights(self) -> None:
        """Has the device keep its weights as they are over starts."""
        self._link.ask(Command.KEEP_WEIGHTS, timeout=_SLOW_SECONDS)

    def forget_weights(self) -> None:
        """Has the device go back to the program's own weights, for good."""
        self._link.ask(Command.FORGET_WEIGHTS, timeout=_SLOW_SECONDS)
        self.read_info()

    def _read_all(self, command: Command, size: int) -> bytes:
        found = b""
        while len(found) < size:
            more = self._link.ask(command, _U32.pack(len(found)))
            if not more:
                raise BadFile(f"{self.address}: the device's answer is damaged")
            found += more
        return found[:size]


def _check_expiry(manifest: SlotManifest) -> None:
    """Few boards know the time: what has expired is not sent."""
    if manifest.expiry and manifest.expiry < time.time():
        day = datetime.fromtimestamp(manifest.expiry, timezone.utc).date().isoformat()
        raise BadFile(f"the image of {manifest.name} {manifest.version} expired on {day}: sign a new one")


__all__ = ["Device", "LinkLost", "Refused"]
