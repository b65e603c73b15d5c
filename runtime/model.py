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
from edge.runtime.file_bytes import map_file, sha256
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
    from edge.runtime.learn import Layers, LearnedSamples, Learner, LearningBudget
    from edge.runtime.learning import Learning
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
        learned: the last layers as they learn, or None as long as the model is as it was exported.
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
        self._learning: Learning | None = None
        self._learned_path: str | None = None
        self._content: Buffer = b""  # the program's bytes, which learned weights are tied to

    def __call__(self, *arrays: NDArray[Any]) -> NDArray[Any] | tuple[NDArray[Any], ...]:
        """Runs the model on arrays that have exactly the inputs' dtypes and shapes.

        Returns:
            The output, or a tuple of them if there are several.

        Raises:
            BadInput: a wrong number of arrays, or a wrong dtype or shape; the message says what was expected.
        """
        outputs = self._run(self._checked(arrays))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def predict(self, source: Any) -> Prediction:
        """Applies the bundle's preprocessing to one sample, runs the model, and names the best class.

        Args:
            source: what the bundle's preprocessing takes: an image (path, PIL image, array), a recording (path of a
                WAV file, (rate, samples), samples), or an array. Without preprocessing: an array as for `__call__`;
                its batch axis may be left out. The path of a `.npy` file stands for the array in it.

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

    @property
    def learned(self) -> Learner | None:
        return self._learning.learner if self._learning else None

    def learning_budget(
        self, *, layers: Layers = 1, new_labels: Sequence[str] = (), loss: str = "cross-entropy"
    ) -> LearningBudget:
        """The memory that learning would take beside the model, which is not taken yet. See `learner`."""
        return self._to_learn().budget(layers, new_labels, loss)

    def learner(
        self,
        *,
        layers: Layers = 1,
        new_labels: Sequence[str] = (),
        learning_rate: float = 0.01,
        loss: str = "cross-entropy",
    ) -> Learner:
        """Chooses how the model learns, from its own weights on; what was learned before is given up.

        Args:
            layers: with weights, counted from the output; "all" trains the whole of a small float model.
            new_labels: classes that the model does not have yet.
            learning_rate: of stochastic gradient descent, one sample at a time.
            loss: "cross-entropy" of the softmax of the output, or "squared", for target vectors.

        Raises:
            Unsupported: an operator that cannot be learned through, which is named; or the engine is not the core.
            BadInput: more layers than there are, or options out of range.
        """
        learner = self._to_learn().make(layers, new_labels, learning_rate, loss)
        self._show_classes()
        return learner

    def learn(
        self,
        x: Any,
        y: Any,
        *,
        learning_rate: float | None = None,
        new_labels: bool = False,
        progress: Callable[[int, int], None] | None = None,
        position: tuple[str, int] | None = None,
    ) -> LearnedSamples:
        """Learns one sample or several, in order, one step each; predictions follow at once.

        What is learned is kept in a file beside the model (see `load`), which is written at most every ten seconds and
        when the model is closed.

        Args:
            x: a source as for `predict`; or a sequence of them, where `y` is one.
            y: the class, by index or label; or a float vector of as many values as classes. Or a sequence of those.
            learning_rate: from now on; 0.01 at first.
            new_labels: a label that the model does not have becomes a new class; else it is refused.
            progress: called with (samples done, samples in all) after each.
            position: a name for the stream of samples and how many of it are learned after this call: kept with the
                weights, and given by `learned_position`, so that work that was interrupted goes on where it stopped.

        Raises:
            BadInput: a sample or target that does not fit; of targets nothing is learned then. Or the outputs are not
                finite any more: the learning rate is too high.
            Unsupported: the model cannot learn: see `learner`.
            EdgeError: what was learned cannot be written.
        """
        try:
            return self._to_learn().learn(
                x, y, self._ready, learning_rate, new_labels=new_labels, progress=progress, position=position
            )
        finally:
            self._show_classes()

    def add_labels(self, labels: Sequence[str]) -> None:
        """Adds classes to those that are learned; what was learned stays.

        Raises:
            BadInput: a label that is there already or is none, or nothing learns yet: call `learner` first.
        """
        if self.learned is None:
            raise BadInput(f"{self.file}: nothing learns yet: model.learner(new_labels=...)")
        self.learned.add_labels(labels)
        self._show_classes()

    def learned_position(self, stream: str) -> int:
        """How many samples of a stream were learned: see `learn`."""
        return self._to_learn().position(stream)

    def save_learned(self, path: str | os.PathLike[str] | None = None) -> str:
        """Writes what was learned, by default to where `load` finds it again; returns the path.

        Raises:
            BadInput: nothing was learned, or there is no path.
            EdgeError: it cannot be written.
        """
        learning = self._to_learn()
        place = learning.path if path is None else os.fspath(path)
        if place is None:
            raise BadInput(f"{self.file}: loaded with learned=False: give save_learned a path")
        learning.save(place)
        return place

    def load_learned(self, path: str | os.PathLike[str]) -> None:
        """Takes over what another run, or a microcontroller with the same program, learned.

        Raises:
            BadFile: missing, damaged, or of another model.
        """
        self._to_learn().read(os.fspath(path))
        self._show_classes()

    def forget(self) -> None:
        """Back to the model as it was exported; removes the file beside it."""
        self._to_learn().forget()
        self._show_classes()

    def _to_learn(self) -> Learning:
        session = self._opened()
        if self._learning is None:
            from edge.runtime.learning import Learning

            self._learning = Learning(session, self.file, self._own_labels(), self._program_hash, self._learned_path)
        return self._learning

    def _program_hash(self) -> bytes:
        return bytes.fromhex(sha256(self._content))

    def _own_labels(self) -> tuple[str, ...]:
        shape = self._session.outputs[0].shape if self._session is not None else ()
        own = self.manifest.labels if self.manifest else ()
        return own or tuple(map(str, range(shape[-1] if shape else 0)))

    def _show_classes(self) -> None:
        """Makes the labels and the output's shape those of what was learned."""
        learned, session = self.learned, self._session
        if session is None:
            return
        own = self.manifest.outputs if self.manifest else session.outputs
        self.labels = learned.labels if learned else self.manifest.labels if self.manifest else ()
        self.outputs = list(own)
        if learned is not None:
            spec = own[0]
            self.outputs[0] = TensorSpec(spec.name, spec.dtype, (*spec.shape[:-1], len(learned.labels)))

    def _run(self, arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        session, learned = self._opened(), self.learned
        return session.run(arrays) if learned is None else [learned.predict(arrays)]

    def _ready(self, source: Any) -> list[NDArray[Any]]:
        """The input arrays of one sample."""
        if len(self.inputs) != 1:
            raise BadInput(f"{self.file}: takes {len(self.inputs)} inputs: only a model of one learns")
        preprocess = self.inputs[0].preprocess if isinstance(self.inputs[0], InputSpec) else None
        if isinstance(source, (str, os.PathLike)):
            source = _read_source(os.fspath(source), preprocess)
        array = source if preprocess is None else preprocess(source)
        if not isinstance(array, np.ndarray):
            raise BadInput(f"{self.file}: has no preprocessing: expected an array, not {type(source).__name__}")
        if array.shape == self.inputs[0].shape[1:]:
            array = array[None]
        return self._checked([array])

    def _logits(self, source: Any) -> NDArray[np.float64]:
        logits = self._run(self._ready(source))[0].reshape(-1).astype(np.float64)
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
        """Writes what was learned and not yet written, and frees the engine's memory; a closed model refuses to run."""
        if self._session is None:
            return
        try:
            if self._learning is not None:
                self._learning.save_if_kept()
        finally:
            self._learning = None
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


def load(
    path: str | os.PathLike[str],
    backend: str = "auto",
    threads: int | None = None,
    *,
    learned: bool | str | os.PathLike[str] = True,
) -> Model:
    """Opens a bundle (`.edge`) or a bare `.pte`, `.tflite` or `.onnx`.

    Args:
        backend: "core", "executorch", "litert", "onnx", or "auto": the first of them, in this order, that is
            installed, whose file is there, and that supports the model.
        threads: of the engine; by default the cores that the process may use, at most 4.
        learned: what the model learned on this device is kept in this file; True: in `path` + ".learned". Where there
            is such a file, the model goes on from it, unless it is another model's (a newer version was installed):
            then a warning says so, and the model is as it was exported. False: nothing is read or kept.

    Raises:
        BadFile: the file is missing or damaged, or the learned weights are.
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
            return _restored(_open_first(place, files, bundle.view, backend, threads, bundle.manifest), place, learned)
    kind = suffix.lstrip(".")
    if kind not in FORMAT_ENGINES:
        if not os.path.exists(place):
            raise BadFile(f"{place}: no such file")
        known = ", ".join(f".{suffix}" for suffix in ("edge", *FORMAT_ENGINES))
        raise BadFile(f"{place}: unknown kind of file: expected {known}")
    content = _file_view(place)
    opened = _open_first(place, dict.fromkeys(FORMAT_ENGINES[kind], ""), lambda _: content, backend, threads, None)
    return _restored(opened, place, learned)


def _restored(model: Model, place: str, learned: bool | str | os.PathLike[str]) -> Model:
    """The model, with what it has learned on this device."""
    if learned is False or model.backend != "core":
        return model
    path = place + ".learned" if learned is True else os.fspath(learned)
    model._learned_path = path
    if not os.path.exists(path):
        return model
    try:
        model.load_learned(path)
    except BadFile as error:
        if "of another model" not in str(error):
            model.close()
            raise BadFile(f"{error}: remove the file, or load the model with learned=False") from None
        import warnings

        warnings.warn(f"{error}: the model is as it was exported", stacklevel=3)
    return model


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
            model = _opened_model(backend_module(name).open(content, threads), name, where, manifest)
            model._content = content
            return model
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
