"""`connect`: the model on a board, with the interface of `edge.runtime.load`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.firmware_bridge.device import Device
from edge.firmware_bridge.errors import Refused
from edge.firmware_bridge.messages import NO_SLOT, Status
from edge.firmware_bridge.port import BAUD
from edge.firmware_bridge.signature import FirmwareKey
from edge.firmware_bridge.wire_session import WireSession
from edge.runtime.errors import BadFile
from edge.runtime.learn import LearnedSamples, Learner
from edge.runtime.learning import Learning
from edge.runtime.manifest import Manifest
from edge.runtime.model import Model

__all__ = ["RemoteModel", "connect"]


class RemoteModel(Model):
    """A model that runs on a device: a `Model`, whose learned weights the device keeps itself.

    Attributes:
        device: for what only devices have: information, updates, statistics.
    """

    def __init__(self, session: WireSession, address: str, manifest: Manifest | None) -> None:
        super().__init__(session, "device", address, manifest)
        self.device: Device = session.device
        self._unkept = False
        if session.found is not None:
            found = session.found
            own = self._own_labels()
            labels = (*own, *(str(index) for index in range(len(own), found.classes)))
            self._learning = Learning(session, self.file, own, self._program_hash, None)
            self._learning.learner = Learner(
                session, labels, layers=found.layers, learning_rate=found.rate, loss=found.loss
            )
            self._show_classes()

    def learn(
        self,
        x: Any,
        y: Any,
        *,
        learning_rate: float | None = None,
        new_labels: bool = False,
        progress: Callable[[int, int], None] | None = None,
        position: tuple[str, int] | None = None,
    ) -> LearnedSamples:
        """As `Model.learn`; the device keeps what it learned over a restart once `keep` or `close` was called."""
        self._unkept = True
        return super().learn(
            x, y, learning_rate=learning_rate, new_labels=new_labels, progress=progress, position=position
        )

    def keep(self) -> None:
        """Has the device keep what it learned over restarts.

        Raises:
            Refused: nothing was learned, or its storage has no room for it.
        """
        self.device.keep_weights()
        self._unkept = False

    def forget(self) -> None:
        """Back to the model as it was exported, for good."""
        self.device.forget_weights()
        self._unkept = False
        super().forget()

    def close(self) -> None:
        """Has the device keep what it learned, and closes the link."""
        try:
            if self._unkept and self._session is not None and self.learned is not None:
                self.keep()
        finally:
            super().close()

    def _program_hash(self) -> bytes:
        return b""  # the device knows it, and ties the weights to it


def connect(address: str, key: FirmwareKey | Path | str | None = None, *, baud: int = BAUD) -> RemoteModel:
    """The model that runs on a board.

    Args:
        address: a serial port ("/dev/ttyUSB0"), "socket://HOST:PORT", "emulate:BOARD:FILE" (an emulated board with this
            firmware), or "gateway://HOST:PORT/NAME".
        key: the owner's, or its file; needed to learn, not to run.
        baud: of a serial port.

    Raises:
        BadFile, BadInput: the address, the firmware or the key file is wrong.
        LinkLost: the port is busy or gone, or nothing answers.
        Refused: no model runs on the device, or its firmware is older than this protocol.
        MissingDependency: the package for ports or emulators is not installed.
    """
    device = Device.open(address, key, baud=baud)
    try:
        return model_of(device)
    except BaseException:
        device.close()
        raise


def model_of(device: Device) -> RemoteModel:
    """The model that runs on an open device; closing it closes the device.

    Raises:
        Refused: none runs.
        BadFile: what the device says of it is damaged.
    """
    if device.info.running is None or device.info.running == NO_SLOT:
        raise Refused(f"{device.address}: no model runs on the device: {device.trouble()}", Status.NO_MODEL)
    described = device.description()
    try:
        manifest = Manifest.from_json(described) if described else None
    except BadFile as error:
        raise BadFile(f"{device.address}: the model's description: {error}") from None
    return RemoteModel(WireSession(device), device.address, manifest)
