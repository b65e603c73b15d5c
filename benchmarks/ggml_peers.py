"""ggml and bitnet.cpp as peers of layers.py: built from the user's checkouts, in this process, on chains of products.

library = build_library(ENGINES["ggml"], Path("llama.cpp"))
with library.open([1024, 1024, 1024], rows=1, threads=1) as chain:
    chain()

Both quantize float32 activations to 8 bits in each product, as the core does. Their layers have no biases, which costs
them less than the core's. Each is built once by its own CMake files, without BLAS and OpenMP (a pool of ggml's own
threads), for the instructions that the core uses: GGML_NATIVE, or where EDGE_ISA or the machine say AVX2, AVX2. CC and
CXX choose the compiler; bitnet.cpp asks for clang.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from edge.runtime._core import isas
from edge.runtime.cache import cache_dir
from edge.runtime.errors import BadInput, EdgeError, Unsupported

_SOURCES = Path(__file__).with_name("ggml")

_OPTIONS = ("-DGGML_OPENMP=OFF", "-DGGML_BLAS=OFF", "-DGGML_LLAMAFILE=ON")
_NATIVE = ("-DGGML_NATIVE=ON",)
_AVX2 = ("-DGGML_NATIVE=OFF", "-DGGML_AVX=ON", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON")
# By the core's instructions: a compiler's "native" knows nothing of EDGE_ISA.
_INSTRUCTIONS = {"avx2": _AVX2, "avxvnni": (*_AVX2, "-DGGML_AVX_VNNI=ON")}

_OFF_A_LAYER = 0.02
"""Error of a layer, relative: twice what 8-bit activations cost."""


@dataclass(frozen=True)
class Engine:
    """An engine of ggml's family.

    Attributes:
        option: that names its checkout on the command line.
        title: as in the results.
        weights: ggml's name of the ternary type.
        folders: where its ggml may lie in a checkout.
        expected: what a checkout is one of, for messages.
        generated: a file that its own set-up makes, which its build wants.
    """

    option: str
    title: str
    weights: str
    folders: tuple[str, ...]
    expected: str
    generated: str = ""


ENGINES = {
    engine.option: engine
    for engine in (
        Engine("ggml", "ggml TQ2_0", "TQ2_0", (".", "ggml"), "ggml or llama.cpp"),
        Engine(
            "bitnet", "bitnet.cpp I2_S", "I2_S", ("3rdparty/llama.cpp/ggml",), "microsoft/BitNet with its submodules",
            "include/bitnet-lut-kernels.h",
        ),
    )
}  # fmt: skip


class Chain:
    """Layers of random ternary weights (seed 0) on an engine, to be called; closes as a context.

    Attributes:
        error: |answer - numpy's| / |numpy's| of the whole chain.
    """

    def __init__(self, library: ctypes.CDLL, widths: Sequence[int], rows: int, threads: int) -> None:
        rng = np.random.default_rng(0)
        self._library, self._handle = library, None
        self._input = rng.standard_normal((rows, widths[0]), dtype=np.float32)
        self._output = np.empty((rows, widths[-1]), np.float32)
        # A power of two, so that its 16-bit form is exact; outputs stay about as large as inputs.
        weights = [
            np.ldexp(rng.integers(-1, 2, (outputs, inputs)).astype(np.float32), -round(math.log2(inputs * 2 / 3) / 2))
            for inputs, outputs in pairwise(widths)
        ]
        pointers = (ctypes.c_void_p * len(weights))(*(weight.ctypes.data for weight in weights))
        counts = (ctypes.c_int64 * len(widths))(*widths)
        self._handle = library.chain_open(len(weights), counts, rows, pointers, threads)
        if not self._handle:
            raise EdgeError("not enough memory for the chain")
        expected = self._input
        for weight in weights:
            expected = expected @ weight.T
        self()
        self.error = float(np.linalg.norm(self._output - expected) / np.linalg.norm(expected))

    def __call__(self) -> None:
        status = self._library.chain_run(self._handle, self._input.ctypes.data, self._output.ctypes.data)
        if status != 0:
            raise EdgeError(f"ggml_graph_compute gives {status}")

    def __enter__(self) -> Chain:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.chain_close(self._handle)
        self._handle = None


class Library:
    """An engine that is built and loaded."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self.engine = engine
        self._library = library = ctypes.CDLL(str(path))  # symbols stay local: two ggmls do not meet
        library.chain_multiple.restype = ctypes.c_int64
        library.chain_open.restype = ctypes.c_void_p
        library.chain_open.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int]
        library.chain_run.argtypes = [ctypes.c_void_p] * 3
        library.chain_close.argtypes = [ctypes.c_void_p]

    def open(self, widths: Sequence[int], rows: int, threads: int) -> Chain:
        """A chain of len(widths) - 1 layers.

        Raises:
            Unsupported: the engine has no kernel for these widths, or its answer is not the product.
        """
        multiple = self._library.chain_multiple()
        odd = [width for width in widths[:-1] if width % multiple]
        if odd:
            raise Unsupported(f"{self.engine.weights} takes multiples of {multiple} inputs, not {odd[0]}")
        chain = Chain(self._library, widths, rows, threads)
        if not chain.error <= _OFF_A_LAYER * math.sqrt(len(widths) - 1):
            chain.__exit__()
            raise Unsupported(f"its answer is {chain.error:.1%} off the product")
        return chain


def build_library(engine: Engine, checkout: Path) -> Library:
    """Builds an engine's ggml with our chain, or takes it from the cache.

    Raises:
        BadInput: there is no such checkout.
        EdgeError: it does not build; the message has the compiler's first error.
    """
    where = f"--{engine.option} {checkout}"
    source = _find(engine, checkout, where)
    cmake = shutil.which("cmake")
    if cmake is None:
        raise EdgeError(f"{where}: building it needs cmake: pip install cmake")
    instructions = _INSTRUCTIONS.get(os.environ.get("EDGE_ISA") or isas()[0], _NATIVE)
    options = [f"-DGGML={source}", f"-DWEIGHTS={engine.weights}", *_OPTIONS, *instructions]
    compilers = [os.environ.get(name, "") for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS")]
    key = hashlib.sha256(repr((str(_SOURCES), options, compilers)).encode()).hexdigest()[:12]
    folder = cache_dir() / "peers" / f"{engine.option}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    print(f"building {engine.title} in {folder}", file=sys.stderr, flush=True)
    log = folder / "build.log"
    with log.open("w") as file:
        for words in (["-S", _SOURCES, "-B", folder, *options], ["--build", folder, "--parallel", str(os.cpu_count())]):
            if subprocess.run([cmake, *words], stdout=file, stderr=subprocess.STDOUT).returncode != 0:
                raise EdgeError(f"{where}: does not build: {_first_error(log)} ({log})")
    try:
        return Library(engine, folder / "libchain.so")
    except OSError as error:
        raise EdgeError(f"{where}: what was built does not load: {error}") from error


def _find(engine: Engine, checkout: Path, where: str) -> Path:
    """The folder of ggml itself."""
    for folder in engine.folders:
        source = (checkout / folder).resolve()
        header = source / "include" / "ggml.h"
        if header.is_file() and (source / "CMakeLists.txt").is_file():
            break
    else:
        raise BadInput(f"{where}: not a checkout of {engine.expected}")
    if f"GGML_TYPE_{engine.weights}" not in header.read_text(errors="replace"):
        raise BadInput(f"{where}: its ggml has no weights of type {engine.weights}")
    if engine.generated and not (checkout / engine.generated).is_file():
        raise BadInput(f"{where}: {engine.generated} is missing: run its setup_env.py, or copy one of preset_kernels")
    return source


def _first_error(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    found = [place for place, line in enumerate(lines) if re.search(r"\berror\b", line, re.IGNORECASE)]
    if not found:
        return "no error is told"
    # CMake tells what is wrong in the paragraph after "CMake Error at …:".
    told = [lines[found[0]].strip(), *(line.strip() for line in lines[found[0] + 1 :] if line.strip())]
    return (" ".join(told[:2]) if told[0].startswith("CMake Error") else told[0])[:300]
