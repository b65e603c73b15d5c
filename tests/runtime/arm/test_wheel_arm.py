"""The wheel for ARM, installed by pip in a root file system of Debian for ARM and used there, all under emulation."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.runtime import load
from edge.runtime._core import Program
from tests.conftest import run_edge
from tests.runtime.arm.device import ARCHITECTURES, Device, device
from tests.runtime.compilers import ARM_CPUS
from tests.runtime.edge_models import NAMES, model_folder
from tests.runtime.programs import program_folder

PYTHON = "/root/edge/bin/python"
EDGE = "/root/edge/bin/edge"
OLDEST_GLIBC = (2, 36)
"""That of Raspberry Pi OS bookworm: the oldest with a Python that edge runs on."""


@pytest.fixture(scope="module")
def devices() -> dict[str, Device]:
    """Those made so far."""
    return {}


@pytest.fixture
def arm(request: pytest.FixtureRequest, devices: dict[str, Device]) -> Device:
    """The device of the architecture that a test names."""
    architecture = request.param
    if architecture == "armv7" and not os.environ.get("EDGE_ARM_WHEEL"):
        pytest.skip("the wheel for armv7: takes as long again; nox -s arm_wheel does it")
    if architecture not in devices:
        devices[architecture] = device(architecture)
    return devices[architecture]


@pytest.fixture
def place(arm: Device) -> Iterator[Path]:
    """An empty folder on the device, as this machine sees it."""
    folder = Path(tempfile.mkdtemp(dir=arm.root / "tmp"))
    yield folder
    shutil.rmtree(folder)


def seen(place: Path) -> str:
    """The same folder as the device sees it."""
    return f"/tmp/{place.name}"


@pytest.mark.parametrize("arm", ARCHITECTURES, indirect=True)
def test_the_wheel_needs_no_more_than_raspberry_pi_os_has(arm: Device, tmp_path: Path) -> None:
    names = ARCHITECTURES[arm.architecture]
    python = f"cp3{sys.version_info[1]}-cp3{sys.version_info[1]}" if sys.version_info < (3, 12) else "cp312-abi3"
    assert arm.wheel.name.endswith(f"-{python}-linux_{names.machine}.whl")
    shutil.unpack_archive(arm.wheel, tmp_path, "zip")
    (core,) = (tmp_path / "edge" / "runtime").glob("_core.*so")
    command = [f"{names.triplet}-readelf", "--wide", "--dynamic", "--version-info", core]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    libraries = set(re.findall(r"NEEDED.*\[(.+)\]", told))
    libraries -= {"ld-linux-aarch64.so.1", "ld-linux-armhf.so.3"}
    assert libraries == {"libc.so.6", "libgcc_s.so.1", "libm.so.6", "libstdc++.so.6"}
    versions = {tuple(map(int, found.split("."))) for found in re.findall(r"Name: GLIBC_([\d.]+)", told)}
    assert versions and max(versions) <= OLDEST_GLIBC


def inputs_of(program: Program) -> list[NDArray[Any]]:
    random = np.random.default_rng(11)
    return [
        random.normal(size=shape).astype(dtype) if dtype == "float32" else random.integers(0, 7, shape).astype(dtype)
        for dtype, shape in program.inputs
    ]


@pytest.mark.parametrize(("arm", "cpu", "isas"), ARM_CPUS, indirect=["arm"])
def test_the_installed_core_computes_the_same_bits(
    arm: Device, place: Path, cpu: str, isas: set[str], digits_bundle: Path
) -> None:
    programs = {name: program_folder() / f"{name}.pte" for name in ("edge_block", "edge_convolutions", "cct", "zoo")}
    programs |= {name: model_folder() / f"{name}.pte" for name in NAMES}
    expected = {}
    for name, path in programs.items():
        shutil.copy(path, place)
        program = Program(path.read_bytes())
        inputs = inputs_of(program)
        np.savez(place / f"{name}.npz", *inputs)
        expected |= {f"{name} {at}": output for at, output in enumerate(program.run(inputs))}
    shutil.copy(digits_bundle, place / "digits.edge")
    with load(digits_bundle, backend="core") as model:
        images = np.random.default_rng(5).random((3, *model.inputs[0].shape), dtype=np.float32)
        expected |= {f"digits {at}": model(image) for at, image in enumerate(images)}
    np.savez(place / "digits.npz", images=images)
    shutil.copy(Path(__file__).with_name("on_device.py"), place)

    done = arm.run(PYTHON, f"{seen(place)}/on_device.py", seen(place), cpu=cpu)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    names = ARCHITECTURES[arm.architecture]
    assert found["machine"] == names.machine
    assert found["core"].startswith("/root/edge/lib/")
    assert set(found["isas"]) == isas | {"scalar"}
    assert set(found["best"].values()) == {found["isas"][0]} != {"scalar"}
    assert found["backend"] == "core"
    assert not {"torch", "executorch", "onnxruntime", "ai-edge-litert"} & set(found["packages"])
    outputs = np.load(place / "outputs.npz")
    compared = set()
    for key, output in outputs.items():
        name = " ".join(key.split()[:2])
        assert output.dtype == expected[name].dtype and output.tobytes() == expected[name].tobytes(), key
        compared.add(name)
    assert compared == expected.keys()
    assert sum(key.startswith("cct_2_3x2 0 ") for key in outputs) == 2 * len(found["isas"])


@pytest.mark.parametrize(("arm", "cpu"), [row[:2] for row in ARM_CPUS], indirect=["arm"])
def test_edge_run_gives_the_same_answers(arm: Device, place: Path, cpu: str, digits_bundle: Path) -> None:
    shutil.copy(digits_bundle, place)
    done = arm.run(PYTHON, EDGE, "run", f"{seen(place)}/digits.edge", "--json", cpu=cpu)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    wanted = json.loads(run_edge("run", digits_bundle, "--backend", "core", "--json").stdout)
    assert answer["backend"] == "core"
    assert answer["agreeing"] == wanted["agreeing"] == len(answer["results"])
    for got, want in zip(answer["results"], wanted["results"], strict=True):
        assert got["label"] == want["label"]
        # numpy's own exponential, in the softmax, is not the same on each processor.
        assert got["score"] == pytest.approx(want["score"], abs=1e-6)


@pytest.mark.parametrize("arm", ARCHITECTURES, indirect=True)
def test_the_commands_of_a_device(arm: Device, place: Path, digits_bundle: Path) -> None:
    shutil.copy(digits_bundle, place)
    bundle = f"{seen(place)}/digits.edge"
    for words, part in (
        (["--help"], "Usage: edge"),
        (["inspect", bundle], "model.pte"),
        (["bench", bundle, "--runs", "2", "--threads", "2"], "core"),
        (["doctor"], "numpy"),
    ):
        done = arm.run(PYTHON, EDGE, *words)
        assert done.returncode == 0 and part in done.stdout, f"{words}\n{done.stdout}\n{done.stderr}"
    done = arm.run(PYTHON, EDGE, "run", f"{seen(place)}/none.edge")
    assert done.returncode == 1
    assert done.stderr.startswith("edge: error: ") and done.stderr.count("\n") == 1, done.stderr
