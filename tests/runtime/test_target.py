"""The table of targets."""

from __future__ import annotations

import pytest

from edge.runtime.errors import BadInput
from edge.runtime.manifest import ENGINES, FORMAT_ENGINES
from edge.runtime.target import TARGETS, find_target


def test_every_engine_reads_exactly_one_format() -> None:
    listed = [engine for engines in FORMAT_ENGINES.values() for engine in engines]
    assert sorted(listed) == sorted(ENGINES)


def test_targets_are_consistent() -> None:
    assert len({target.name for target in TARGETS}) == len(TARGETS)
    for target in TARGETS:
        assert set(target.engines) <= set(ENGINES)
        assert "core" in target.engines  # it builds from source wherever there is a compiler
        assert find_target(target.name) is target


def test_formats_follow_from_the_engines() -> None:
    assert find_target("generic").formats == ("pte", "tflite", "onnx")
    assert find_target("pi-zero").formats == ("pte",)
    assert find_target("pi-zero").to_dict()["formats"] == ["pte"]


def test_an_unknown_target_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadInput, match=r'no target "pi9".*pi-zero'):
        find_target("pi9")
