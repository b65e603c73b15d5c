"""NumPy archives (.npz) as data sets; objects in them are refused, so nothing is unpickled."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.export.data.dataset import Dataset, Shape, Split, evenly, stratified
from edge.export.data.files import check_method
from edge.export.data.images import augmentation_for, image_dataset, plain_preprocess
from edge.export.data.layout import MAX_LABEL
from edge.export.reason import first_line
from edge.runtime.errors import BadFile, BadInput
from edge.runtime.preprocess import ArrayPreprocess

MAX_BYTES = 16 << 30

# What zipfile and numpy's reader of headers raise; it goes through Python's own parser.
_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def load_arrays(
    name: str,
    path: Path,
    input_shape: Shape | None,
    test_fraction: float,
    seed: int,
    limit: int | None,
) -> Dataset:
    """Reads "x" and "y", or "x_train", "y_train", "x_test", "y_test", and optionally "labels".

    x: uint8 [n, H, W], [n, H, W, 1] or [n, H, W, 3] are images; any other numbers [n, ...] are arrays, normalised by
    the mean and deviation of the training part. y: integers from 0, or text. labels: text, one for each class.

    Raises:
        BadFile: not an .npz, damaged, or holding objects.
        BadInput: an array is missing or does not fit the others.
    """
    arrays = _read(path)
    if "x" in arrays and "y" in arrays:
        x, y = arrays["x"], arrays["y"]
        count = None
    elif {"x_train", "y_train", "x_test", "y_test"} <= arrays.keys():
        if arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
            raise BadInput(
                f"{path}: x_train is {list(arrays['x_train'].shape)}, x_test {list(arrays['x_test'].shape)}: "
                "samples must have one shape"
            )
        for part in ("train", "test"):
            _check_lengths(path, arrays[f"x_{part}"], arrays[f"y_{part}"])
        x = np.concatenate([arrays["x_train"], arrays["x_test"]])
        y = np.concatenate([arrays["y_train"], arrays["y_test"]])
        count = len(arrays["x_train"])
    else:
        found = ", ".join(sorted(arrays)[:6]) or "nothing"
        raise BadInput(f"{path}: expected arrays x and y, or x_train, y_train, x_test and y_test; found {found}")
    _check_lengths(path, x, y)
    labels, classes = _classes(path, y, arrays.get("labels"))
    train, test, split = _split(path, classes, count, test_fraction, seed, limit)
    provenance = {"path": str(path), "split": split, "train": len(train), "test": len(test)}
    if x.dtype == np.uint8 and (x.ndim == 3 or (x.ndim == 4 and x.shape[-1] in (1, 3))):
        pictures = x[..., None] if x.ndim == 3 else x
        preprocess = plain_preprocess(input_shape, (pictures.shape[3], *pictures.shape[1:3]))
        if input_shape is not None:
            parts = [np.stack([preprocess.decode(picture) for picture in pictures[i]]) for i in (train, test)]
        else:
            parts = [pictures[train], pictures[test]]
        return image_dataset(
            name,
            labels,
            (parts[0], classes[train]),
            (parts[1], classes[test]),
            preprocess,
            provenance,
            augmentation_for(preprocess),
        )
    if x.dtype.kind not in "fiub":
        raise BadInput(f"{path}: x is of {x.dtype}: expected numbers")
    if x.ndim < 2:
        raise BadInput(f"{path}: x is {list(x.shape)}: expected [samples, ...]")
    # A shape without channels is a size to scale pictures to, and these are none.
    if input_shape is not None and None not in input_shape and tuple(input_shape) != x.shape[1:]:
        raise BadInput(f"{path}: samples are {list(x.shape[1:])}, the model takes {list(input_shape)}")
    values = x.astype(np.float32)
    if not np.isfinite(values).all():
        raise BadInput(f"{path}: x holds NaN or infinity")
    learned = values[train]
    # One statistic for each feature of a table; one for all of a signal, whose entries share a unit.
    axes = 0 if x.ndim == 2 else None
    mean = np.atleast_1d(learned.mean(axes, dtype=np.float64))
    std = np.maximum(np.atleast_1d(learned.std(axes, dtype=np.float64)), 1e-6)
    array = ArrayPreprocess(tuple(x.shape[1:]), tuple(map(float, mean)), tuple(map(float, std)))
    return Dataset(
        name,
        labels,
        Split(learned, classes[train], array),
        Split(values[test], classes[test], array),
        array,
        provenance,
        None,
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
            if size > MAX_BYTES:
                raise BadInput(f"{path}: {size >> 30} GB unpacked; at most {MAX_BYTES >> 30} are read")
            for info in archive.infolist():
                check_method(path, info)
                _check_header(path, archive, info)
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise BadFile(f"{path}: no such file") from None
    except MemoryError:
        raise BadFile(f"{path}: does not fit into memory") from None
    except _DAMAGE as error:
        text = first_line(error)
        if "allow_pickle" in text:
            text = "it holds Python objects, which are not read: save plain arrays"
        raise BadFile(f"{path}: cannot be read as .npz: {text}") from None


def _check_header(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Checks that an array's header claims the bytes that follow it: numpy allocates first and reads then."""
    with archive.open(info) as entry:
        if info.filename[-4:] != ".npy":
            raise BadFile(f"{path}: {info.filename[:80]!r} is no array")
        version = np.lib.format.read_magic(entry)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise BadFile(f"{path}: {info.filename[:80]!r} is an array of format {version}: expected 1.0 or 2.0")
        shape, _, dtype = readers[version](entry)
        held = info.file_size - entry.tell()
    # An array of objects is a pickle of any size; the next reader refuses it.
    if not dtype.hasobject and (not dtype.itemsize or math.prod(shape) * dtype.itemsize != held):
        raise BadFile(f"{path}: {info.filename[:80]!r} claims {dtype} {list(shape)}, yet holds {held:,} bytes")


def _check_lengths(path: Path, x: NDArray[Any], y: NDArray[Any]) -> None:
    if x.ndim < 1 or y.ndim != 1 or len(x) != len(y) or not len(x):
        raise BadInput(f"{path}: x is {list(x.shape)} and y {list(y.shape)}: expected one label for each sample")


def _classes(path: Path, y: NDArray[Any], names: NDArray[Any] | None) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    if y.dtype.kind in "US":
        found, classes = np.unique(y.astype(str), return_inverse=True)
        labels = tuple(str(text) for text in found)
    elif y.dtype.kind in "iub":
        classes = y.astype(np.int64)
        if classes.min() < 0 or classes.max() >= 1 << 20:
            raise BadInput(f"{path}: y holds {classes.min()} to {classes.max()}: expected classes from 0")
        labels = tuple(str(i) for i in range(int(classes.max()) + 1))
        if names is not None:
            if names.ndim != 1 or names.dtype.kind not in "US" or len(names) < len(labels):
                raise BadInput(f"{path}: labels must be text, one for each of the {len(labels)} classes")
            labels = tuple(str(text) for text in names.astype(str))
    else:
        raise BadInput(f"{path}: y is of {y.dtype}: expected integers or text")
    if len(set(labels)) < len(labels) or not all(text.isprintable() and len(text) <= MAX_LABEL for text in labels):
        raise BadInput(f"{path}: labels must differ and have at most {MAX_LABEL} printable letters")
    if len(np.unique(classes)) < 2:
        raise BadInput(f"{path}: y holds one class: a classifier needs at least two")
    return labels, classes.astype(np.int64)


def _split(
    path: Path, y: NDArray[np.int64], count: int | None, test_fraction: float, seed: int, limit: int | None
) -> tuple[NDArray[np.intp], NDArray[np.intp], str]:
    """Indices of train and test; `count` says how many come first as the file's own training part."""
    if count is None:
        train, test = stratified(y, test_fraction, seed)
        words = f"{100 * test_fraction:.0f} % of every class held out, seed {seed}"
    else:
        train, test, words = np.arange(count), np.arange(count, len(y)), "as the data set has it"
    if limit is not None and limit < len(y):
        rng = np.random.default_rng(seed)
        share = max(1, round(limit * len(train) / len(y)))
        train = train[evenly(y[train], share, rng)]
        test = test[evenly(y[test], max(1, limit - share), rng)]
    absent = np.setdiff1d(np.unique(y), np.unique(y[train]))
    if len(absent):
        why = f"--limit {limit} leaves it none" if limit is not None else "only test samples"
        raise BadInput(f"{path}: class {absent[0]} has no training sample ({why})")
    return train, test, words
