"""Updates of a board over its link: the real firmware, built for this machine, behind the real TUF repository."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tuf")
pytest.importorskip("edge.firmware_bridge.device", reason="the firmware bridge is not in this tree")

from edge.fleet.device.board_update import BoardUpdates
from edge.fleet.device.bridge_board import BridgeBoard
from edge.fleet.device.install import UpdateJob
from edge.fleet.device.trusted_metadata import TrustedModels
from edge.fleet.inventory import Inventory
from edge.fleet.server.updates.plan import choose
from edge.fleet.server.updates.publish import parse_variant, publish
from edge.fleet.server.updates.repository import ModelRepository
from edge.fleet.server.updates.source import Source
from edge.fleet.server.updates.store import BlobStore
from edge.fleet.variant import Blob, Variant
from edge.runtime.bundle import Bundle
from edge.runtime.errors import BadFile, BadInput
from tests.firmware_bridge.conftest import board_program, owner, start  # noqa: F401


class Fleet:
    """A source, and a board that is started anew on its storage each time its link is opened."""

    def __init__(self, folder: Path, make: Callable[..., Any], key: Any, program: str) -> None:
        from tests.firmware_bridge.host_board import write_storage
        from tests.runtime.programs import program_folder

        self.folder, self.owner, self._start = folder, key, make
        self.pte = (program_folder() / program).read_bytes()
        self.source = Source(ModelRepository.create(folder / "tuf"), BlobStore(folder / "store"))
        self.storage = write_storage(folder / "board.bin", key, self.image(3))
        TrustedModels.provision(folder / "device" / "trust", self.source.repository.trusted_root())
        self.updates = self.make(self.source)

    def make(self, source: Any, **options: Any) -> BoardUpdates:
        from edge.firmware_bridge.remote_model import model_of

        trust = self.folder / "device" / "trust"
        return BoardUpdates(self.folder / "device", source, self.open, model_of, trust=trust, **options)

    def open(self) -> Any:
        return self._start(storage=self.storage)

    def image(self, sequence: int, **fields: Any) -> bytes:
        from edge.firmware_bridge.slot_image import slot_image

        fields.setdefault("target", "host")
        fields.setdefault("name", "kws")
        key = fields.pop("key", self.owner)
        return slot_image(self.pte, key, sequence=sequence, version=f"{sequence}.0", **fields)

    def reference(self, shift: float = 0.0) -> bytes:
        """Inputs, and what the core makes of them here."""
        from edge.runtime.backends.core import open as open_core

        session = open_core(self.pte, 1)
        shape = session.inputs[0].shape
        rng = np.random.default_rng(0)
        inputs = [rng.standard_normal(shape).astype(np.float32) for _ in range(4)]
        outputs = [np.array(session.run([x])[0]).reshape(-1) + shift for x in inputs]
        buffer = io.BytesIO()
        np.savez(buffer, inputs=np.stack(inputs), outputs=np.stack(outputs))
        return buffer.getvalue()

    def publish(self, sequence: int, image: bytes | None = None, shift: float = 0.0, gate: str = "") -> str:
        blob = self.source.store.add_bytes(image or self.image(sequence))
        reference: Blob = self.source.store.add_bytes(self.reference(shift))
        variant = Variant(
            "kws", f"{sequence}.0", "host", sequence, "image", blob, target="host", gate=gate, reference=reference
        )
        self.source.repository.publish([variant])
        return variant.path

    def runs(self) -> int:
        device = self.open()
        sequence = int(device.info.running_sequence)
        device.close()
        return sequence


@pytest.fixture
def fleet(tmp_path: Path, start: Callable[..., Any], owner: Any) -> Fleet:  # noqa: F811
    return Fleet(tmp_path, start, owner, "mlp.pte")


def test_a_board_gets_its_next_model(fleet: Fleet) -> None:
    steps: list[str] = []
    assert fleet.runs() == 3
    path = fleet.publish(4, gate="agreement>=0.9|latency_p95<10s")
    outcome = fleet.updates.update(UpdateJob("j1", path), lambda state, detail, metrics: steps.append(state))
    assert outcome is not None and outcome.state == "active", outcome
    assert steps == ["downloading", "verified"] and outcome.metrics["agreement"] == 1.0
    assert fleet.runs() == 4
    again = fleet.updates.update(UpdateJob("j2", path))
    assert again is not None and again.state == "active"


def test_one_that_answers_wrongly_is_taken_back(fleet: Fleet) -> None:
    outcome = fleet.updates.update(UpdateJob("j1", fleet.publish(4, shift=100.0)))
    assert outcome is not None and outcome.state == "rolled-back" and "is off by" in outcome.detail
    assert fleet.runs() == 3


def test_one_that_fails_its_gate_is_taken_back(fleet: Fleet) -> None:
    outcome = fleet.updates.update(UpdateJob("j1", fleet.publish(4), gate="latency_p95<1us"))
    assert outcome is not None and outcome.state == "rolled-back"
    assert outcome.detail.startswith("gate, on the reference inputs: latency_p95 is")
    assert fleet.runs() == 3


def test_what_the_board_itself_refuses(fleet: Fleet) -> None:
    from edge.firmware_bridge.signature import FirmwareKey

    for number, image in enumerate(
        (fleet.image(4, key=FirmwareKey.generate()), fleet.image(2), fleet.image(4, target="cortex-m0"))
    ):
        path = fleet.publish(10 + number, image)
        outcome = fleet.updates.update(UpdateJob(f"j{number}", path))
        assert outcome is not None and outcome.state == "failed" and outcome.detail, outcome
        assert fleet.runs() == 3


def test_what_is_no_image_or_was_changed_on_the_way(fleet: Fleet) -> None:
    blob = fleet.source.store.add_bytes(b"x" * 100)
    program = Variant("kws", "9.0", "pte", 9, "program", blob)
    fleet.source.repository.publish([program])
    outcome = fleet.updates.update(UpdateJob("j1", program.path))
    assert outcome is not None and "a board takes nothing else" in outcome.detail
    path = fleet.publish(4)

    class Tampering:
        def fetch(self, name: str, offset: int, length: int) -> bytes | None:
            data = fleet.source.fetch(name, offset, length)
            return data[:-1] + b"?" if data and len(name) == 64 else data

    outcome = fleet.make(Tampering()).update(UpdateJob("j2", path))
    assert outcome is not None and "does not have the hash that is signed for" in outcome.detail
    outcome = fleet.make(fleet.source, withdrawn=lambda job: True).update(UpdateJob("j3", path))
    assert outcome is not None and outcome.detail == "cancelled by the operator" and fleet.runs() == 3


def test_the_operator_takes_it_back(fleet: Fleet) -> None:
    first, second = fleet.publish(3), fleet.publish(4)
    outcome = fleet.updates.update(UpdateJob("j1", second))
    assert outcome is not None and outcome.state == "active" and fleet.runs() == 4
    outcome = fleet.updates.update(UpdateJob("j2", first, rollback=True))
    assert outcome is not None and outcome.state == "active" and fleet.runs() == 3
    # A job that calls a newer version a rollback passes no gate by that.
    third = fleet.publish(5, gate="latency_p95<0.001ms")
    outcome = fleet.updates.update(UpdateJob("j3", third, rollback=True))
    assert outcome is not None and outcome.state == "rolled-back" and "latency" in outcome.detail
    assert fleet.runs() == 3


def test_a_transfer_that_is_taken_back_ends_and_is_not_activated(fleet: Fleet) -> None:
    """As the gateway hears it: the cancel is seen on its way in, while the board takes chunk after chunk."""
    reports: list[Any] = []
    sent: list[int] = []
    path = fleet.publish(4)

    def opened() -> Any:
        device = fleet.open()
        flash = device.flash

        def watched(image: bytes, progress: Callable[[int, int], object]) -> Any:
            def passed(done: int, total: int) -> None:
                sent.append(done)
                if len(sent) == 3:
                    board.seen("j2", "model.cancel", {"job": "j1"})
                progress(done, total)

            return flash(image, passed)

        device.flash = watched
        return device

    def updates(folder: Path, open_device: Any, model_of: Any, withdrawn: Callable[[str], bool]) -> BoardUpdates:
        trust = fleet.folder / "device" / "trust"
        return BoardUpdates(folder, fleet.source, open_device, model_of, trust=trust, withdrawn=withdrawn)

    board = BridgeBoard("mic1", fleet.folder / "device", opened, updates)
    board.do("j1", "model.update", {"target": path}, reports.append)
    assert (reports[-1].state, reports[-1].detail) == ("failed", "cancelled by the operator")
    assert len(sent) == 3 and sent[-1] < len(fleet.image(4)) and fleet.runs() == 3
    device = fleet.open()
    assert device.info.trial is None and device.info.active_sequence == 3
    device.close()
    board.do("j2", "model.cancel", {"job": "j1"}, reports.append)
    assert reports[-1].state == "done"
    # The next rollout goes on where this one ended: the board started again, so at the beginning of a sector.
    done = sent[-1] // 1024 * 1024
    sent.clear()
    board.do("j3", "model.update", {"target": path}, reports.append)
    assert reports[-1].state == "active" and fleet.runs() == 4 and sent[0] >= done > 0


def test_an_image_that_the_board_runs_already_is_not_withdrawn(fleet: Fleet) -> None:
    path = fleet.publish(4)
    assert fleet.updates.update(UpdateJob("j1", path)) is not None
    outcome = fleet.make(fleet.source, withdrawn=lambda job: True).update(UpdateJob("j1", path))
    assert outcome is not None and outcome.state == "active" and fleet.runs() == 4


def test_an_image_says_which_boards_may_take_it(fleet: Fleet, digits_bundle: Path, tmp_path: Path) -> None:
    def published(image: bytes, word: str, version: str, **options: Any) -> Variant:
        path = tmp_path / "slot.bin"
        path.write_bytes(image)
        asked = [parse_variant(f"{word}={path}")]
        source = fleet.source
        return publish(source.repository, source.store, digits_bundle, version=version, variants=asked, **options)[0]

    with Bundle.open(digits_bundle) as opened:
        name = opened.manifest.name
    made = published(fleet.image(4, target="cortex-m4", board="mps2-an386", name=name), "cortex-m4", "4.0")
    assert (made.kind, made.target, made.board, made.abi) == ("image", "cortex-m4", "mps2-an386", 1)
    assert "aten::addmm.out" in made.operators or "edge::linear.out" in made.operators, made.operators
    assert made.path in fleet.source.repository.variants() and fleet.source.repository.variants()[made.path] == made
    board = Inventory(kind="microcontroller", target="cortex-m4", board="mps2-an386", runtimes={"core": "abi 1"})
    assert choose([made], board)[0] is made
    assert "which its firmware lacks" in choose([made], replace(board, operators=("aten::sin.out",)))[1]
    wrong = fleet.image(5, target="cortex-m4", board="mps2-an386", name=name)
    for image, word, options, told in (
        (fleet.image(5, target="cortex-m4"), "cortex-m4", {}, f"says that it is kws:5.0.*sign it as {name}:5.0"),
        (fleet.image(4, target="cortex-m4", name=name), "cortex-m4", {}, f"says that it is {name}:4.0"),
        (wrong, "cortex-m0", {}, "its target is cortex-m4, not cortex-m0"),
        (wrong, "cortex-m4@lm3s6965evb", {}, "its board is mps2-an386, not lm3s6965evb"),
        (wrong, "cortex-m4", {"abi": 2}, "is for programs of ABI 1, not 2"),
        (b"\0" * 5000, "cortex-m4", {}, "no slot image"),
        (wrong[:1000], "cortex-m4", {}, "cut short"),
    ):
        with pytest.raises((BadFile, BadInput), match=told):
            published(image, word, "5.0", **options)


def test_a_board_as_its_gateway_presents_it(fleet: Fleet) -> None:
    reports: list[Any] = []
    board = BridgeBoard("mic1", fleet.folder / "device", fleet.open, lambda *_: fleet.updates)
    inventory = board.inventory()
    assert (inventory.kind, inventory.target, inventory.models[0].version) == ("microcontroller", "host", "3.0")
    assert inventory.models[0].sha256 == "" and board.measure()["running_sequence"] == 3
    board.do("j1", "model.update", {"target": fleet.publish(4)}, reports.append)
    assert [report.state for report in reports] == ["downloading", "verified", "active"]
    (model,) = board.inventory().models
    assert fleet.updates.last is not None
    assert model.version == "4.0" and model.sha256 == fleet.updates.last[1]
    board.do("j2", "dance", {}, reports.append)
    assert reports[-1].state == "failed"
