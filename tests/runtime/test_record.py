"""Records are to their users what frozen dataclasses are."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable

import pytest

from edge.runtime.manifest import FileEntry, InputSpec, TensorSpec
from edge.runtime.record import Record

SPEC = InputSpec("x", "float32", (1, 2))


@dataclasses.dataclass(frozen=True)
class Twin:
    """What `FileEntry` would be."""

    engines: tuple[str, ...]
    sha256: str
    bytes: int
    arena_bytes: int | None = None
    macs: int | None = None
    ops: dict[str, int] = dataclasses.field(default_factory=dict)


def test_the_functions_of_dataclasses_know_them() -> None:
    assert dataclasses.replace(SPEC, name="y") == InputSpec("y", "float32", (1, 2))
    entry, twin = FileEntry((), "0", 3, macs=4), Twin((), "0", 3, macs=4)
    assert dataclasses.asdict(entry) == dataclasses.asdict(twin)
    assert [field.name for field in dataclasses.fields(entry)] == [field.name for field in dataclasses.fields(twin)]
    assert repr(entry) == repr(twin).replace("Twin", "FileEntry")


def test_they_compare_by_kind_and_fields() -> None:
    assert InputSpec("x", "float32", (1, 2), None) == SPEC != TensorSpec("x", "float32", (1, 2))
    assert len({SPEC, InputSpec("x", "float32", (1, 2)), InputSpec("y", "float32", (1, 2))}) == 2
    assert pickle.loads(pickle.dumps(SPEC)) == copy.deepcopy(SPEC) == SPEC


def test_a_dict_of_defaults_is_nobody_elses() -> None:
    assert FileEntry((), "0", 3).ops is not FileEntry((), "0", 3).ops


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TensorSpec("x", "float32"), "shape is missing"),  # type: ignore[call-arg]
        (lambda: TensorSpec("x", "float32", (), None), "takes 3 values, 4 given"),  # type: ignore[call-arg]
        (lambda: TensorSpec("x", "float32", (), name="y"), "name is given twice"),  # type: ignore[misc]
        (lambda: TensorSpec("x", "float32", shap=()), "shap is no field"),  # type: ignore[call-arg]
    ],
)
def test_wrong_fields_are_refused(make: Callable[[], Record], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_they_do_not_change() -> None:
    with pytest.raises(AttributeError, match="name"):
        SPEC.name = "y"  # type: ignore[misc]
    with pytest.raises(AttributeError, match="name"):
        del SPEC.name
    assert SPEC.name == "x"


def test_they_do_without_dataclasses() -> None:
    script = "import sys, numpy; from edge.runtime import Bundle, TensorSpec, load; print('dataclasses' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
