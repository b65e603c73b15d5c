"""`load` and `Model`: one interface to a model, whichever engine runs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.runtime.backends import backend_module, default_threads
from edge.runtime.errors import BadFile, BadInput, EdgeError, MissingDependency, Unsupported
from edge.runtime.fields import reason, shown
from edge.runtime.file_bytes import map_file
from edge.runtime.manifest import (
    ENGINES,
    FORMAT_ENGINES,
    MAX_FILE_BYTES,
    FileEntry,
    InputSpec,
    Manifest,
    TensorSpec,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge.runtime.backends.session import Buffer, OpProfile, Session
    from edge.runtime.prediction import Prediction
    from edge.runtime.preprocess import Preprocess


class Model:
    """A model that is ready to run; made by `load`, for one thread at a time, closed by `close` or a `with` block.

    Attributes:
        inputs, outputs: names, dtypes and shapes (batch axis included).
        labels: class names; empty if the file has none.
        manifest: the bundle's manifest, or None for a bare `.pte`, `.tflite` or `.onnx`.
        backend: name of the engine that runs it.
        file: path of the file, within the bundle as "name.edge/model.pte".
    """

    def __init__(self, session: Session, backend: str, file: str, manifest: Manifest | None) -> None:
        self._session: Session | None = session
        self.backend = backend
        self.file = file
        self.manifest = manifest
        self.labels: tuple[str, ...] = manifest.labels if manifest else ()
        self.inputs: list[TensorSpec] = list(session.inputs)
        self.outputs: list[TensorSpec] = list(session.outputs)
        if manifest is not None:
            # The order of the tensors counts; their names inside a file are the exporter's.
            _check_same("input", manifest.inputs, self.inputs)
            _check_same("output", manifest.outputs, self.outputs)
            _check_arena(manifest.files.get(os.path.basename(file)), getattr(session, "arena_bytes", None))
            self.inputs, self.outputs = list(manifest.inputs), list(manifest.outputs)

    def __call__(self, *arrays: NDArray[Any]) -> NDArray[Any] | tuple[NDArray[Any], ...]:
        """Runs the model on arrays that have exactly the inputs' dtypes and shapes.

        Returns:
            The output, or a tuple of them if there are several.

        Raises:
            BadInput: a wrong number of arrays, or a wrong dtype or shape; the message says what was expected.
        """
        outputs = self._opened().run(self._checked(arrays))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def predict(self, source: Any) -> Prediction:
        """Applies the bundle's preprocessing to one sample, runs the model, and names the best class.

        Args:
            source: what the bundle's preprocessing takes: an image (path, PIL image, array), a recording (path of a
                WAV file, (rate, samples), samples), or an array. Without preprocessing: an array as for `__call__`.
                The path of a `.npy` file stands for the array in it.

        Raises:
            BadInput: the source does not fit, or the model is no classifier of one input.
            BadFile: the file is missing, damaged, or of another kind.
            MissingDependency: it is an image file, and Pillow is not installed.
        """
        from edge.runtime.prediction import Prediction

        classes = self.outputs[0].shape[-1] if self.outputs[0].shape else 0
        if len(self.inputs) != 1 or int(np.prod(self.outputs[0].shape)) != classes or classes < 2:
            raise BadInput(
                f"{self.file}: edge run and predict need one input and one row of class scores: "
                "call the model itself, from Python"
            )
        if not isinstance(source, (str, os.PathLike)):
            logits = self._logits(source)
        else:
            try:
                logits = self._logits(source)
            except (BadFile, BadInput) as error:
                # Of many files, say which.
                name = os.fspath(source)
                raise type(error)(str(error) if name in str(error) else f"{name}: {error}") from None
        weights = np.exp(logits - logits.max())
        scores = (weights / weights.sum()).astype(np.float32)
        labels = self.labels or tuple(map(str, range(classes)))
        index = int(np.argmax(logits))
        return Prediction(labels[index], index, float(scores[index]), scores, labels)

    def _logits(self, source: Any) -> NDArray[np.float64]:
        preprocess = self.inputs[0].preprocess if isinstance(self.inputs[0], InputSpec) else None
        if isinstance(source, (str, os.PathLike)):
            source = _read_source(os.fspath(source), preprocess)
        array = source if preprocess is None else preprocess(source)
        if not isinstance(array, np.ndarray):
            raise BadInput(f"{self.file}: has no preprocessing: expected an array, not {type(source).__name__}")
        logits = self._opened().run(self._checked([array]))[0].reshape(-1).astype(np.float64)
        if not np.isfinite(logits).all():
            raise BadInput(f"{self.file}: the model gave NaN or infinity for this input")
        return logits

    def profile(self, *arrays: NDArray[Any]) -> list[OpProfile]:
        """Times one run after a run to warm up: each operator in order, or the whole model if the engine tells no more.

        Args:
            arrays: as for a call; zeros if none are given.
        """
        if not arrays:
            arrays = tuple(np.zeros(spec.shape, spec.dtype) for spec in self.inputs)
        ops = self._opened().profile(self._checked(arrays))
        if len(ops) == 1 and ops[0].macs is None and self.manifest is not None:
            from dataclasses import replace

            entry = self.manifest.files.get(os.path.basename(self.file))
            ops = [replace(ops[0], macs=entry.macs if entry else None)]
        return ops

    def close(self) -> None:
        """Frees the engine's memory; a closed model refuses to run."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Model {self.file} on {self.backend}>"

    def _opened(self) -> Session:
        if self._session is None:
            raise BadInput(f"{self.file}: the model is closed")
        return self._session

    def _checked(self, arrays: Sequence[Any]) -> list[NDArray[Any]]:
        if len(arrays) != len(self.inputs):
            wanted = f"{len(self.inputs)} array{'s' if len(self.inputs) != 1 else ''}"
            raise BadInput(f"{self.file}: takes {wanted}, {len(arrays) or 'none'} given")
        checked = []
        for spec, array in zip(self.inputs, arrays, strict=True):
            if type(array) is np.ndarray and array.dtype == spec.dtype and array.shape == spec.shape:
                checked.append(array if array.flags.c_contiguous else np.ascontiguousarray(array))
                continue
            if not isinstance(array, np.ndarray):
                given = f"{type(array).__module__}.{type(array).__qualname__}"
            elif array.dtype.newbyteorder("=") != np.dtype(spec.dtype) or array.shape != spec.shape:
                given = f"{array.dtype.name} {list(array.shape)}"
            else:
                checked.append(np.ascontiguousarray(array, np.dtype(spec.dtype)).reshape(spec.shape))
                continue
            raise BadInput(f"{self.file}: input {spec.name!r}: expected {spec.dtype} {list(spec.shape)}, given {given}")
        return checked


def load(path: str | os.PathLike[str], backend: str = "auto", threads: int | None = None) -> Model:
    """Opens a bundle (`.edge`) or a bare `.pte`, `.tflite` or `.onnx`.

    Args:
        backend: "core", "executorch", "litert", "onnx", or "auto": the first of them, in this order, that is
            installed, whose file is there, and that supports the model.
        threads: of the engine; by default the cores that the process may use, at most 4.

    Raises:
        BadFile: the file is missing or damaged.
        BadInput: an unknown backend, or one whose file the bundle does not hold.
        MissingDependency: the engine is not installed; the message says what to install.
        Unsupported: no installed engine runs this model; the message names the operator or delegate.
    """
    if backend not in ("auto", *ENGINES):
        raise BadInput(f"backend {backend!r}: expected auto, {', '.join(ENGINES)}")
    if threads is None:
        threads = default_threads()
    elif isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 256:
        raise BadInput(f"threads: expected 1 to 256, found {threads!r}")
    if not isinstance(path, (str, os.PathLike)):
        raise BadInput(f"path: expected the path of a model file, found {shown(path)}")
    place = os.fspath(path)
    suffix = os.path.splitext(place)[1].lower()
    if suffix == ".edge":
        from edge.runtime.bundle import Bundle

        with Bundle.open(place) as bundle:
            files = {engine: names[0] for engine in ENGINES if (names := bundle.manifest.files_for(engine))}
            return _open_first(place, files, bundle.view, backend, threads, bundle.manifest)
    kind = suffix.lstrip(".")
    if kind not in FORMAT_ENGINES:
        if not os.path.exists(place):
            raise BadFile(f"{place}: no such file")
        known = ", ".join(f".{suffix}" for suffix in ("edge", *FORMAT_ENGINES))
        raise BadFile(f"{place}: unknown kind of file: expected {known}")
    content = _file_view(place)
    return _open_first(place, dict.fromkeys(FORMAT_ENGINES[kind], ""), lambda _: content, backend, threads, None)


def _open_first(
    place: str,
    files: Mapping[str, str],
    read: Callable[[str], Buffer],
    choice: str,
    threads: int,
    manifest: Manifest | None,
) -> Model:
    """Opens the file of the chosen engine, or of the first that takes it.

    Args:
        files: name of the file in the bundle by engine, in the order of preference; "" is the file `place` itself.
    """
    if choice != "auto" and choice not in files:
        raise BadInput(f"{place}: holds no file for the {choice} backend; it has one for {', '.join(files) or 'none'}")
    refusals: dict[str, EdgeError] = {}
    for name in files if choice == "auto" else [choice]:
        where = f"{place}/{files[name]}" if files[name] else str(place)
        content = read(files[name])
        try:
            return _opened_model(backend_module(name).open(content, threads), name, where, manifest)
        except (MissingDependency, Unsupported) as error:
            refusals[name] = error
        except (BadFile, BadInput) as error:
            raise type(error)(f"{where}: {error}") from None
    if not refusals:
        raise BadFile(f"{place}: holds no file that an engine runs")
    kind = Unsupported if any(isinstance(error, Unsupported) for error in refusals.values()) else MissingDependency
    if choice != "auto":  # who named the engine knows it
        raise kind(f"{place}: {refusals[choice]}")
    raise kind(f"{place}: " + "; ".join(f"{name}: {error}" for name, error in refusals.items()))


def _opened_model(session: Session, name: str, where: str, manifest: Manifest | None) -> Model:
    try:
        return Model(session, name, where, manifest)
    except BaseException:
        session.close()
        raise


def _read_source(path: str, preprocess: Preprocess | None) -> str | NDArray[Any]:
    """The array in a `.npy`; another path as it is, if the preprocessing reads files of other kinds.

    Raises:
        BadFile: there is no such file, or it cannot be the input.
    """
    if path.lower().endswith(".npy"):
        from edge.runtime.array_file import read_array

        return read_array(path)
    if preprocess is not None:
        from edge.runtime.preprocess import AudioPreprocess, ImagePreprocess

        if isinstance(preprocess, (ImagePreprocess, AudioPreprocess)):
            return path
    if not os.path.exists(path):
        raise BadFile(f"{path}: no such file")
    raise BadFile(f"{path}: the model takes arrays: expected a .npy file")


def _file_view(path: str) -> memoryview:
    """The file's bytes, mapped."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 < size <= MAX_FILE_BYTES:
                raise BadFile(f"{path}: {size:,} bytes: expected 1 to {MAX_FILE_BYTES:,}")
            return map_file(file, 0, size)
    except FileNotFoundError:
        raise BadFile(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise BadFile(f"{path}: cannot be read: {reason(error)}") from None


def _check_arena(entry: FileEntry | None, planned: int | None) -> None:
    """Checks that a file plans no more memory than the manifest says; of the engines only the core tells."""
    listed = entry.arena_bytes if entry else None
    if listed is not None and planned is not None and planned > listed:
        raise BadFile(f"plans {planned:,} bytes of memory; the manifest says {listed:,}: export it again")


def _check_same(kind: str, listed: Sequence[TensorSpec], found: Sequence[TensorSpec]) -> None:
    """Checks that a file takes and gives what the manifest says."""

    def texts(specs: Sequence[TensorSpec]) -> str:
        return ", ".join(f"{spec.dtype} {list(spec.shape)}" for spec in specs)

    if texts(listed) != texts(found):
        raise BadFile(f"its {kind}s are {texts(found)}; the manifest says {texts(listed)}: export it again")
