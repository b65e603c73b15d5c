"""A board on the firmware bridge, as a gateway presents it: what it is, what it measures, and how it gets its models.

The bridge is imported when a board is opened: a device without boards does not need it.
"""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.fleet.device.board_update import BoardDevice, BoardUpdates
from edge.fleet.device.install import UpdateJob
from edge.fleet.device.jobs import Report
from edge.fleet.inventory import InstalledModel, Inventory
from edge.fleet.messages import JobReport
from edge.runtime.errors import EdgeError
from edge.runtime.whole_file import whole_file

UPDATE, CANCEL = "model.update", "model.cancel"
_PAUSE, _LONGEST_PAUSE = 2.0, 300.0
_MOST_WITHDRAWN = 10_000


def open_bridge(address: str, key: Path | None) -> Callable[[], BoardDevice]:
    """Opens the link to a board each time that it is called.

    Args:
        address: as `edge.firmware_bridge.connect` takes it.
        key: file of the owner's key; without it a board can be read, and not changed.
    """

    def opened() -> BoardDevice:
        device: BoardDevice = importlib.import_module("edge.firmware_bridge.device").Device.open(address, key)
        return device

    return opened


def bridge_model(device: Any) -> Any:
    """The model that runs on an open device."""
    return importlib.import_module("edge.firmware_bridge.remote_model").model_of(device)


class BridgeBoard:
    """A `edge.fleet.device.gateway.Board`.

    Args:
        name: of the board, below its gateway's id.
        folder: for its downloads, and what is known of its images.
        open_device: opens its link; `open_bridge`.
        updates: makes what installs on it, given the folder, the two functions, and one that says whether a job was
            taken back (`Updates.for_board`).
        model_of: the model on an open device.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        open_device: Callable[[], BoardDevice],
        updates: Callable[[Path, Callable[[], BoardDevice], Callable[[Any], Any], Callable[[str], bool]], BoardUpdates],
        model_of: Callable[[Any], Any] = bridge_model,
    ) -> None:
        self._name = name
        self._folder = folder
        self._open = open_device
        self._lock = threading.Lock()  # a link is one user's at a time
        self._withdrawn: set[str] = set()
        self._updates = updates(folder, open_device, model_of, self._withdrawn.__contains__)
        self._stopped = threading.Event()
        self._go_on = threading.Event()  # ends a pause between attempts
        self._last_info: Any = None

    @property
    def name(self) -> str:
        return self._name

    def stop(self) -> None:
        self._stopped.set()
        self._go_on.set()
        self._updates.stop()

    def seen(self, job: str, kind: str, arguments: dict[str, Any]) -> None:
        """Takes down that a job was taken back before that job is done: its transfer ends with the next chunk."""
        if kind == CANCEL and len(self._withdrawn) < _MOST_WITHDRAWN:
            self._withdrawn.add(str(arguments.get("job"))[:200])
            self._go_on.set()

    def inventory(self) -> Inventory:
        """What the board says of itself.

        Raises:
            EdgeError, OSError: it does not answer.
        """
        info = self._info()
        models: tuple[InstalledModel, ...] = ()
        if info.running is not None and info.model:
            known = self._images().get(bytes(info.model_digest).hex(), "")
            models = (InstalledModel(info.model, info.model_version or "0", known, True),)
        return Inventory(
            kind="microcontroller",
            arch=info.target,
            ram_kb=info.memory_bytes // 1024,
            flash_kb=info.slot_bytes // 1024,
            os=info.firmware,
            runtimes={"core": f"abi {info.abi}"},
            board=info.board,
            target=info.target,
            models=models,
            operators=info.operators,
        )

    def measure(self) -> dict[str, float | int | str | bool]:
        """What is reported at each heartbeat; nothing while the link is in use or gone."""
        try:
            info = self._info()
        except (EdgeError, OSError):
            return {}
        return {"running_sequence": info.running_sequence, "trouble": info.trouble, "commits": info.commits}

    def do(self, job: str, kind: str, arguments: dict[str, Any], report: Report) -> None:
        """Installs what a "model.update" names; again and again while the link or the connection is gone."""
        if kind == CANCEL:
            report(JobReport("done"))
            return
        if kind != UPDATE:
            report(JobReport("failed", f"a board cannot do {kind!r}"))
            return
        update, pause = UpdateJob.read(job, arguments), _PAUSE
        while not self._stopped.is_set():
            try:
                with self._lock:
                    outcome = self._updates.update(
                        update, lambda state, detail, metrics: report(JobReport(state, detail, dict(metrics)))
                    )
            except (EdgeError, OSError):
                self._go_on.wait(pause)
                self._go_on.clear()
                pause = min(_LONGEST_PAUSE, pause * 2)
                continue
            if outcome is not None:
                if outcome.state == "active":
                    self._note_image()
                report(JobReport(outcome.state, outcome.detail, outcome.metrics))
            return

    def _info(self) -> Any:
        """What the board says of itself; while it is being updated, what it said last."""
        if not self._lock.acquire(timeout=_PAUSE):
            if self._last_info is None:
                raise EdgeError(f"{self._name}: its link is in use")
            return self._last_info
        try:
            device = self._open()
            try:
                self._last_info = device.info
            finally:
                device.close()
        finally:
            self._lock.release()
        return self._last_info

    def _note_image(self) -> None:
        """Keeps which published file the board's image is: it tells no more than the first bytes of a hash."""
        done = self._updates.last
        if done is None:
            return
        digest, sha256 = done
        with whole_file(self._folder / "images.json") as file:
            file.write(json.dumps({**dict(list(self._images().items())[-7:]), digest: sha256}).encode())

    def _images(self) -> dict[str, str]:
        try:
            found = json.loads((self._folder / "images.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return {str(digest): str(sha256) for digest, sha256 in found.items()} if isinstance(found, dict) else {}
