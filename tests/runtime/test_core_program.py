"""The core against program files: what plain ExecuTorch writes, what nobody should write, and damaged bytes."""

from __future__ import annotations

import mmap
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.runtime._core import CoreError, Program, operators, run_op
from tests.conftest import ROOT
from tests.runtime.compilers import c_compiler
from tests.runtime.programs import RUNNABLE, program_folder

REFUSED = {
    "delegate": ("unsupported", "delegate XnnpackBackend: the core runs no delegates"),
    "sorting": ("unsupported", "not an operator of the core: aten::sort.values, aten::cumsum.out"),
    "branch": ("unsupported", "instruction 2 is a jump (control flow, torch.cond)"),
    "half": ("unsupported", "value 0: a tensor of float16 (dtype 5); the core computes in float32"),
    "channels_last": ("unsupported", "value 0: a tensor in channels-last"),
    "wrong_constant_output": ("bad-file", "instruction 0, aten::relu.out: output argument 1 is a constant"),
    "wrong_constant_view": ("bad-file", "instruction 0, aten::relu.out: output argument 1 is a constant"),
    "wrong_constant_input": ("bad-file", "input 0 is a constant"),
    "wrong_constant_input_view": ("bad-file", "instruction 0, executorch_prim::et_view: value 0 is no view of value 2"),
    "wrong_overlap": ("unsupported", "output argument 1 lies over argument 0"),
    "wrong_covered_in_part": ("unsupported", "output argument 4 lies over argument 0"),
    "wrong_covered_other_size": ("unsupported", "output argument 8 lies over argument 0"),
    "wrong_covered_weight": ("unsupported", "output argument 5 lies over argument 1"),
    "wrong_list_overlap": ("unsupported", "output argument 2 lies over argument 0"),
    "wrong_output_list_overlap": ("unsupported", "output argument 2 lies over argument 2"),
    "wrong_output_list_of_constants": ("bad-file", "output argument 2 is a constant"),
    "wrong_output_list_with_a_gap": ("bad-file", "output argument 2 is a list with a gap"),
    "wrong_outside": ("bad-file", "value 3: planned outside its memory"),
    "wrong_unaligned": ("bad-file", "value 3: planned at an offset unaligned to its dtype"),
    "wrong_large_arena": ("unsupported", "needs 5120 MiB to run; at most "),
    "wrong_unplanned": ("unsupported", "argument 1 has no planned memory"),
    "wrong_larger_view": ("bad-file", "value 6 is no view of value 0"),
    "wrong_short_constant": ("bad-file", "value 2: its data is shorter than its shape"),
    "wrong_float_in_int_list": ("bad-file", "entry 1 of an int list is no int"),
    "wrong_int_in_tensor_list": ("bad-file", "entry 1 of a tensor list is no tensor"),
    "wrong_negative_size": ("bad-file", "value 3: a negative dimension"),
    "wrong_huge": ("unsupported", "value 3: a tensor of 2^31 elements or more"),
    "wrong_unbounded": ("unsupported", "value 3: a tensor of unbounded dynamic shape"),
    "wrong_external": ("unsupported", "'head.weight' lies in an external .ptd file"),
    "wrong_free": ("unsupported", "instruction 0 is a free"),
    "wrong_int_output": ("unsupported", "output 0 is not a tensor"),
    "wrong_long_list": ("unsupported", "a list of 65 entries; the core takes 64"),
    "wrong_too_few_arguments": ("bad-file", "instruction 0, aten::relu.out: 1 arguments, 2 wanted"),
    "wrong_wrong_kind": ("unsupported", "instruction 0, aten::relu.out: self is an int, not a tensor"),
}


ROLES = ("input", "output")
CORE = ROOT / "runtime" / "core"


class Sample(NamedTuple):
    """A program with an example."""

    data: bytes
    inputs: list[NDArray[Any]]
    outputs: list[NDArray[Any]]


@pytest.fixture(scope="session")
def folder() -> Path:
    """Where the programs are."""
    return program_folder()


@pytest.fixture(scope="session")
def sample(folder: Path) -> Callable[[str], Sample]:
    """Reads a sample by its name."""

    def read(name: str) -> Sample:
        arrays = dict(np.load(folder / f"{name}.npz"))
        inputs, outputs = ([arrays[f"{role}{i}"] for i in range(16) if f"{role}{i}" in arrays] for role in ROLES)
        return Sample((folder / f"{name}.pte").read_bytes(), inputs, outputs)

    return read


def refusal(data: Any) -> tuple[str, str]:
    """The status and text with which loading fails."""
    with pytest.raises(CoreError) as caught:
        Program(data)
    status, text = caught.value.args
    assert "\n" not in text
    assert 0 < len(text) < 240
    return status, text


@pytest.mark.parametrize("name", RUNNABLE)
def test_programs_of_plain_executorch_compute_what_torch_computes(name: str, sample: Callable[[str], Sample]) -> None:
    """Also twice in a row: a run leaves nothing behind."""
    data, inputs, expected = sample(name)
    program = Program(data)
    assert program.inputs == [(x.dtype.name, x.shape) for x in inputs]
    assert program.outputs == [(y.dtype.name, y.shape) for y in expected]
    for _ in range(2):
        outputs = program.run(inputs)
        for output, wanted in zip(outputs, expected, strict=True):
            assert output.dtype == wanted.dtype
            np.testing.assert_allclose(output, wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_core_cannot_run_is_refused_by_name(name: str, folder: Path) -> None:
    status, text = refusal((folder / f"{name}.pte").read_bytes())
    wanted_status, wanted_text = REFUSED[name]
    assert wanted_text in text
    assert status == wanted_status


@pytest.mark.parametrize("name", ["mlp", "inline", "counter", "edge_block"])
def test_every_truncation_is_refused(name: str, folder: Path) -> None:
    data = (folder / f"{name}.pte").read_bytes()
    Program(data)
    for length in range(len(data)):
        status, text = refusal(data[:length])
        assert status == "bad-file", f"{length}: {text}"


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04" * 8, b"\0" * 64, bytes(range(256))])
def test_other_files_are_not_programs(data: bytes) -> None:
    assert refusal(data) == ("bad-file", "not an ExecuTorch program (.pte): no 'ET12' at byte 4")


def test_an_input_does_not_become_a_constant_while_loading(folder: Path, tmp_path: Path) -> None:
    """The file is read twice; whoever rewrites a mapped one in between must not have its constants written to."""
    path = folder / "wrong_constant_input.pte"
    data = path.read_bytes()
    assert "input 0 is a constant" in refusal(data)[1]
    sources = [*CORE.glob("*.c"), *CORE.glob("ops/*.c"), *CORE.glob("learn/*.c"), *CORE.glob("kernels/**/*.c")]
    sources = [source for source in sources if source.name != "plan.c"]
    harness = Path(__file__).with_name("changing_program.c")
    command = [c_compiler(), "-std=c11", "-O0", f"-I{CORE}", harness, *sources, "-o", tmp_path / "load"]
    command += ["-lm", "-pthread"]
    subprocess.run(command, check=True)
    found = set()
    for at in (at for at, byte in enumerate(data) if byte == 1):
        try:  # is this the byte that says which constant it is? without it there is none
            if not Program(data[:at] + b"\0" + data[at + 1 :]).inputs:
                continue
        except CoreError:
            continue
        result = subprocess.run([tmp_path / "load", path, str(at)], check=True, capture_output=True, text=True)
        found.add(result.stdout.strip())
    assert found == {"the program changed while it was being loaded"}


def test_a_schema_of_the_future_is_named(sample: Callable[[str], Sample]) -> None:
    data = bytearray(sample("mlp").data)
    data[4:8] = b"ET13"
    status, text = refusal(bytes(data))
    assert status == "unsupported"
    assert "schema ET13; the core reads ET12" in text


def test_names_from_a_file_are_printable_in_errors(sample: Callable[[str], Sample]) -> None:
    status, text = refusal(sample("sorting").data.replace(b"aten::sort", b"\n\x1b[2J\xff\xfea\x07z"))
    assert status == "unsupported"
    assert text.isprintable()
    assert "??[2J??a?z" in text


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "expected 1 input, got 0"),
        ([np.zeros((3, 12), "f4")] * 2, "expected 1 input, got 2"),
        ([np.zeros((3, 11), "f4")], "input 0: expected float32 [3, 12], got float32 [3, 11]"),
        ([np.zeros(36, "f4")], "input 0: expected float32 [3, 12], got float32 [36]"),
        ([np.zeros((3, 12))], "input 0: expected float32 [3, 12], got float64 [3, 12]"),
        ([np.zeros((3, 12), "f2")], "input 0: expected float32 [3, 12], got float16"),
        ([np.zeros((3, 12), ">f4")], "input 0: expected float32 [3, 12], got >f4"),
        ([[[0.0] * 12] * 3], "input 0: expected float32 [3, 12], got list; pass a numpy array"),
    ],
)
def test_wrong_inputs_name_the_expected_and_the_given(
    inputs: list[Any], message: str, sample: Callable[[str], Sample]
) -> None:
    program = Program(sample("mlp").data)
    for method in (program.run, program.trace, program.profile):
        with pytest.raises(CoreError) as caught:
            method(inputs)
        assert caught.value.args == ("bad-argument", message)


def test_inputs_may_lie_in_any_memory_order(sample: Callable[[str], Sample]) -> None:
    data, (x,), _ = sample("mlp")
    program = Program(data)
    expected = program.run([x])[0]
    wide = np.zeros((3, 24), "f4")
    wide[:, ::2] = x
    for same in (np.asfortranarray(x), wide[:, ::2], x[::-1][::-1]):
        np.testing.assert_array_equal(program.run([same])[0], expected)


def test_a_program_reads_mapped_files_and_unaligned_slices(folder: Path, sample: Callable[[str], Sample]) -> None:
    data, inputs, _ = sample("cnn")
    expected = Program(data).run(inputs)[0]
    with (folder / "cnn.pte").open("rb") as file:
        mapped = Program(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    sliced = Program(memoryview(b"..." + data)[3:])
    for program in (mapped, sliced):
        np.testing.assert_array_equal(program.run(inputs)[0], expected)


def test_programs_run_in_threads_at_once(sample: Callable[[str], Sample]) -> None:
    """One program serves several threads in turn; several programs share the bytes."""
    data, (x,), _ = sample("cct")
    programs = [Program(data, threads=2) for _ in range(2)]
    batches = [x * scale for scale in np.linspace(0.5, 2.0, 24, dtype="f4")]
    expected = [programs[0].run([batch])[0] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda i: programs[i % 2].run([batches[i]])[0], range(len(batches))))
    for output, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(output, wanted)


def test_outputs_do_not_change_with_the_next_run(sample: Callable[[str], Sample]) -> None:
    data, (x,), _ = sample("mlp")
    program = Program(data)
    first = program.run([x])[0]
    kept = first.copy()
    program.run([x + 1])
    np.testing.assert_array_equal(first, kept)


def test_threads_must_be_positive(sample: Callable[[str], Sample]) -> None:
    with pytest.raises(CoreError, match="threads: 0 given"):
        Program(sample("mlp").data, threads=0)


def test_instructions_describe_the_program(sample: Callable[[str], Sample]) -> None:
    program = Program(sample("mlp").data)
    names = [name for name, _, _ in program.instructions]
    assert names.count("aten::addmm.out") == 3
    assert "aten::gelu.out" in names
    assert program.macs == sum(macs for _, macs, _ in program.instructions) >= 3 * (12 * 16 + 16 * 16 + 16 * 5)
    arguments = next(arguments for name, _, arguments in program.instructions if name == "aten::addmm.out")
    assert arguments[:3] == [
        ("tensor", "float32", (16,), True),
        ("tensor", "float32", (3, 12), False),
        ("tensor", "float32", (12, 16), False),
    ]
    assert arguments[3:] == [1, 1, ("tensor", "float32", (3, 16), False)]
    gelu = next(arguments for name, _, arguments in program.instructions if name == "aten::gelu.out")
    assert gelu[1] == "none"


def test_sizes_add_up(sample: Callable[[str], Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_ISA", "scalar")
    program = Program(sample("cct").data)
    assert 0 < program.arena_bytes <= 110592  # what ExecuTorch planned
    assert program.state_bytes > 0
    assert program.packed_bytes == 0


def test_trace_shows_every_instruction(sample: Callable[[str], Sample]) -> None:
    data, inputs, _ = sample("kinds")
    program = Program(data)
    expected = program.run(inputs)
    trace = program.trace(inputs)
    assert [name for name, _, _ in trace] == [name for name, _, _ in program.instructions]
    joined = next(entry for entry in trace if entry[0] == "aten::cat.out")
    x, y = inputs
    np.testing.assert_array_equal(joined[1][0][1], y)
    assert joined[1][1] == 1
    np.testing.assert_array_equal(joined[2][0], np.concatenate([x * 2, y, x - y], 1))
    mean = next(entry for entry in trace if entry[0] == "aten::mean.out")
    assert mean[1][1:] == [[1], True, None]
    np.testing.assert_array_equal(mean[2][0], expected[1])


def test_profile_times_every_instruction(sample: Callable[[str], Sample]) -> None:
    data, inputs, _ = sample("mlp")
    program = Program(data)
    profile = program.profile(inputs)
    assert [(name, macs) for name, _, macs in profile] == [(name, macs) for name, macs, _ in program.instructions]
    assert all(nanoseconds >= 0 for _, nanoseconds, _ in profile)


def test_run_op_runs_one_operator() -> None:
    x, y, out = np.float32([1, 2]), np.float32([10, 20]), np.zeros(2, "f4")
    run_op("aten::add.out", [x, y, 2, out])
    np.testing.assert_array_equal(out, [21, 42])
    assert "aten::add.out" in operators()


def test_run_op_refuses_what_does_not_fit() -> None:
    x, out = np.zeros(2, "f4"), np.zeros(2, "f4")
    frozen = np.zeros(2, "f4")
    frozen.flags.writeable = False
    cases: list[tuple[str, list[Any], str, str]] = [
        ("aten::no_such.out", [x, out], "unsupported", "no operator 'aten::no_such.out'"),
        ("aten::relu.out", [x], "bad-argument", "1 arguments given, 2 wanted"),
        ("aten::relu.out", [x, frozen], "bad-argument", "argument 1"),
        ("aten::relu.out", [x, np.zeros(3, "f4")], "bad-argument", "[3]"),
        ("aten::relu.out", [x, np.zeros((4, 2), "f4")[:, 0]], "bad-argument", "argument 1"),
        (
            "aten::relu.out",
            [np.zeros(9, "u1")[1:].view("f4"), out],
            "bad-argument",
            "argument 0: its memory is not at a",
        ),
        ("aten::relu.out", [x, np.zeros(9, "u1")[1:].view("f4")], "bad-argument", "not at a multiple of 4 bytes"),
        ("aten::relu.out", [[[1]], out], "bad-argument", "a list inside a list"),
    ]
    for name, arguments, status, text in cases:
        with pytest.raises(CoreError) as caught:
            run_op(name, arguments)
        assert caught.value.args[0] == status
        assert text in caught.value.args[1]
