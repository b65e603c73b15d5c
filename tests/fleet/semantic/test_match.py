"""Matching: every need alone, the nearest variant, and what is published."""

from __future__ import annotations

from typing import Any

import pytest

from edge.fleet.server.semantic.facts import DeviceFacts, ModelFacts
from edge.fleet.server.semantic.match import match, match_devices, version_key
from edge.runtime.errors import BadFile
from tests.fleet.semantic.samples import BOARD, INVENTORY, manifest


def published(**changes: Any) -> dict[str, Any]:
    """A variant for boards, as `edge fleet publish` writes it down."""
    return {
        "model": "kws", "version": "2.2", "variant": "board", "path": "kws/2.2/board.bin", "kind": "image",
        "target": "generic", "board": None, "engines": ["core"], "arena_bytes": 100 << 10, "ram_bytes": 100 << 10,
        "sha256": "1" * 64, "length": 150 << 10, **changes,
    }  # fmt: skip


def model(**changes: Any) -> ModelFacts:
    body = {"name": "kws", "version": "2.2", "manifest": manifest(), "variants": [published(**changes)]}
    return ModelFacts.from_published(body)


def board(**changes: Any) -> DeviceFacts:
    return DeviceFacts.from_inventory("nano", {**BOARD, **changes})


def test_a_device_that_meets_every_need_fits() -> None:
    found = match(model(), board())
    assert found.fits and found.variant == "board.bin" and found.device == "nano" and found.model == "kws:2.2"


@pytest.mark.parametrize(
    ("device", "variant", "told"),
    [
        ({"ram_kb": 64}, {}, "ram: needs 100 KB, has 64 KB"),
        ({"flash_kb": 128}, {}, "flash: needs 150 KB, has 128 KB"),
        ({"kind": "linux"}, {}, "kind: needs microcontroller, has linux"),
        ({}, {"arch": "armv6m"}, "arch: needs armv6m, has armv7em"),
        ({}, {"target": "cortex-m4"}, "target: needs cortex-m4, has none"),
        ({}, {"board": "stm32f4"}, "board: needs stm32f4, has nano33ble"),
        ({"runtimes": {"litert": "2.0"}}, {}, "runtime: needs core, has litert"),
        ({}, {"runtimes": {"core": "0.2.0"}}, "runtime: needs core 0.2.0 or later, has core 0.1.0"),
        ({"operators": ["edge::conv2d.out"]}, {}, "operator edge::ternary_linear is not in the firmware"),
        ({"runtimes": {"core": "abi 1"}}, {"abi": 2}, "abi: needs a core of ABI 2, has one of ABI 1"),
        ({"dtypes": ["int8"]}, {}, "dtype: needs ternary, has int8"),
    ],
)
def test_each_need_is_told_alone(device: dict[str, Any], variant: dict[str, Any], told: str) -> None:
    found = match(model(**variant), board(**device))
    assert [str(each) for each in found.unmet] == [told]


def test_a_sensor_that_is_not_there_is_told_and_is_no_need() -> None:
    for sensors in (["camera"], []):
        found = match(model(), board(sensors=sensors))
        assert found.fits and found.without == ("microphone",)
    assert match(model(), board()).without == ()


def test_what_a_device_does_not_say_is_not_held_against_it() -> None:
    silent = {**BOARD, "ram_kb": 0, "flash_kb": 0, "runtimes": {}, "dtypes": None, "operators": None}
    assert match(model(), DeviceFacts.from_inventory("nano", silent)).fits


def test_several_needs_are_all_told_of_the_nearest_variant() -> None:
    body = {
        "name": "kws", "version": "2.2", "manifest": manifest(),
        "variants": [published(kind="bundle", path="kws/2.2/bundle.edge", board="x"), published(arena_bytes=1 << 20)],
    }  # fmt: skip
    found = match(ModelFacts.from_published(body), board(flash_kb=100))
    assert found.variant == "board.bin"
    assert [each.need for each in found.unmet] == ["ram", "flash"]


def test_a_bundle_on_linux_needs_one_engine_and_memory_for_its_file() -> None:
    spotter = ModelFacts.from_manifest(ModelFacts.from_published(manifest()).manifest)
    assert match(spotter, DeviceFacts.from_inventory("pi", INVENTORY)).variant == "model.pte"
    only = {**INVENTORY, "runtimes": {"litert": "2.3.0"}}
    assert match(spotter, DeviceFacts.from_inventory("pi", only)).variant == "model.tflite"
    small = match(spotter, DeviceFacts.from_inventory("pi", {**INVENTORY, "ram_kb": 200, "runtimes": {"core": "1"}}))
    assert [str(each) for each in small.unmet] == ["ram: needs 250 KB, has 200 KB"]


def test_many_devices_at_once() -> None:
    found = match_devices(model(), [board(), board(ram_kb=1)])
    assert [each.fits for each in found] == [True, False]


@pytest.mark.parametrize(
    ("older", "newer"),
    [("0.9.1", "0.10.0"), ("1.0rc1", "1.0"), ("1.0.dev3", "1.0"), ("2", "2.0.1"), ("", "0"), ("v1.2", "1.3")],
)
def test_versions_are_ordered_by_their_numbers(older: str, newer: str) -> None:
    assert version_key(older) < version_key(newer)


def test_equal_versions() -> None:
    assert version_key("1.0") == version_key("1") == version_key("v1.0.0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engines": ["tpu"]}, "variants\\[0\\].engines: expected a list of core"),
        ({"kind": "toaster"}, "variants\\[0\\].kind: expected one of bundle, program, image"),
        ({"length": -1}, "variants\\[0\\].length: expected 0 to"),
        ({"path": None}, "variants\\[0\\]: field 'path' is missing"),
        ({"sha256": "x"}, "variants\\[0\\].sha256: 'x' is not 64"),
    ],
)
def test_a_wrong_variant_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadFile, match=message):
        model(**change)
