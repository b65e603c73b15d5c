"""`connect`: a device's model beside the same model here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge.firmware_bridge.device import Device
from edge.firmware_bridge.errors import Refused
from edge.firmware_bridge.remote_model import RemoteModel, model_of
from edge.firmware_bridge.signature import FirmwareKey
from edge.firmware_bridge.slot_image import slot_image
from edge.runtime import load
from edge.runtime.bundle import file_entry, write_bundle
from edge.runtime.errors import BadFile, BadInput
from edge.runtime.manifest import InputSpec, Manifest, TensorSpec
from edge.runtime.preprocess import ArrayPreprocess
from tests.runtime.programs import program_folder

Start = Callable[..., Device]
LABELS = ("one", "two", "three", "four")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CNN of the samples with labels."""
    program = (program_folder() / "cnn.pte").read_bytes()
    with load(program_folder() / "cnn.pte", backend="core") as model:
        inputs, outputs = model.inputs, model.outputs
    assert outputs[0].shape == (1, 4)
    manifest = Manifest(
        name="shapes",
        version="1.0",
        task="image-classification",
        created="2026-01-01T00:00:00Z",
        license="Apache-2.0",
        inputs=tuple(InputSpec(spec.name, spec.dtype, spec.shape) for spec in inputs),
        outputs=tuple(TensorSpec("scores", spec.dtype, spec.shape) for spec in outputs),
        files={"model.pte": file_entry(program, ("core",))},
        labels=LABELS,
    )
    path = tmp_path_factory.mktemp("bundle") / "shapes.edge"
    write_bundle(path, manifest, {"model.pte": program})
    return path


@pytest.fixture
def remote(start: Start, bundle: Path, owner: FirmwareKey) -> RemoteModel:
    with load(bundle, backend="core", learned=False) as model:
        manifest = model.manifest
    program = (program_folder() / "cnn.pte").read_bytes()
    return model_of(start(slot_image(program, owner, sequence=1, manifest=manifest)))


def sample(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_same_interface_and_answers(remote: RemoteModel, bundle: Path) -> None:
    with load(bundle, backend="core", learned=False) as here:
        assert (remote.inputs, remote.outputs, remote.labels) == (here.inputs, here.outputs, here.labels)
        for seed in range(3):
            x = sample(seed, here.inputs[0].shape)
            assert np.array_equal(remote(x), here(x))
            there, ours = remote.predict(x), here.predict(x)
            assert (there.label, there.index, there.score) == (ours.label, ours.index, ours.score)
        profile = remote.profile()
        assert [(op.op, op.macs) for op in profile] == [(op.op, op.macs) for op in here.profile()]
        assert all(op.instructions is not None for op in profile)
    with pytest.raises(BadInput, match=r"input .*: expected float32"):
        remote(np.zeros(3, np.float32))
    remote.close()
    with pytest.raises(BadInput, match="the model is closed"):
        remote(x)


def test_learning_is_the_cores(remote: RemoteModel, bundle: Path) -> None:
    with load(bundle, backend="core", learned=False) as here:
        assert vars(remote.learning_budget()).items() >= {"layers": 1, "classes": 4}.items()
        shape = here.inputs[0].shape
        xs = [sample(seed, shape) for seed in range(12)]
        ys = [seed % 4 for seed in range(12)]
        for model in (remote, here):
            model.learn(xs, ys, learning_rate=0.05)
        assert remote.learned is not None and here.learned is not None
        assert np.array_equal(remote.learned.weights, here.learned.weights)
        assert np.array_equal(remote(xs[0]), here(xs[0]))
        # A class that neither had; what was learned stays.
        for model in (remote, here):
            model.learn([sample(77, shape)], ["five"], new_labels=True)
        assert remote.labels == here.labels == (*LABELS, "five")
        assert remote.outputs == here.outputs
        assert np.array_equal(remote.learned.weights, here.learned.weights)
        assert np.array_equal(remote(xs[1]), here(xs[1]))
        for model in (remote, here):
            model.forget()
        assert np.array_equal(remote(xs[1]), here(xs[1]))
        assert remote.labels == LABELS


def test_learned_weights_survive_a_restart(remote: RemoteModel, start: Start, tmp_path: Path) -> None:
    shape = remote.inputs[0].shape
    x = sample(5, shape)
    plain = remote(x)
    remote.learn([x, x, x], [2, 2, 2], learning_rate=0.1)
    learned = remote(x)
    assert not np.array_equal(plain, learned)
    saved = remote.save_learned(tmp_path / "kept.learned")
    remote.close()

    again = model_of(start(storage=tmp_path / "storage.bin"))
    assert again.device.info.learning
    assert again.learned is not None and again.learned.samples == 3
    assert np.array_equal(again(x), learned)
    again.learn(x, 1)
    assert again.learned.samples == 4
    again.forget()
    assert np.array_equal(again(x), plain)
    assert not again.device.reset().learning
    again.load_learned(saved)
    assert np.array_equal(again(x), learned)
    assert again.device.reset().learning


def test_weights_are_read_and_written(remote: RemoteModel) -> None:
    learner = remote.learner(layers=1)
    weights = learner.weights
    learner.weights = weights * 2
    assert np.array_equal(learner.weights, weights * 2)
    blob = bytearray(remote.device.read_weights())
    blob[100] ^= 1
    with pytest.raises(Refused, match="the device refused"):
        remote.device.write_weights(bytes(blob))
    blob[100] ^= 1
    blob[40] ^= 1  # another program's
    with pytest.raises(Refused, match="the device refused"):
        remote.device.write_weights(bytes(blob))


def test_another_model_does_not_take_the_learned_weights(
    remote: RemoteModel, new_image: bytes, owner: FirmwareKey
) -> None:
    remote.learn(sample(1, remote.inputs[0].shape), 1)
    remote.keep()
    device = remote.device
    other = slot_image((program_folder() / "mlp.pte").read_bytes(), owner, sequence=2)
    assert not device.flash(other).learning
    device.roll_back()
    assert device.reset().learning  # back with its program


def test_learning_needs_the_key(start: Start, new_image: bytes) -> None:
    model = model_of(start(new_image, key=None))
    with pytest.raises(BadInput, match="give its owner's key"):
        model.learn(sample(1, model.inputs[0].shape), 1)


def test_no_model_no_connection(start: Start) -> None:
    with pytest.raises(Refused, match="no model runs on the device: no model was activated"):
        model_of(start())


def test_preprocessing_travels_along(start: Start, owner: FirmwareKey, bundle: Path) -> None:
    from dataclasses import replace

    with load(bundle, backend="core", learned=False) as model:
        manifest = model.manifest
    assert manifest is not None
    spec = manifest.inputs[0]
    with_steps = replace(manifest, inputs=(replace(spec, preprocess=ArrayPreprocess(spec.shape[1:], (0.5,), (2.0,))),))
    program = (program_folder() / "cnn.pte").read_bytes()
    model = model_of(start(slot_image(program, owner, sequence=1, manifest=with_steps)))
    assert model.inputs[0] == with_steps.inputs[0]
    x = sample(3, spec.shape[1:])
    assert model.predict(x).label in LABELS


def test_damaged_description_is_told(start: Start, owner: FirmwareKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.firmware_bridge.slot_image.description_of", lambda manifest: b"{}")
    program = (program_folder() / "cnn.pte").read_bytes()
    device = start(slot_image(program, owner, sequence=1, manifest=object()))  # type: ignore[arg-type]
    with pytest.raises(BadFile, match="the model's description: manifest.json"):
        model_of(device)
