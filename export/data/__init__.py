"""Data sets: the embedded digits, image and WAV folders or archives with one folder a class, and .npz files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from edge.export.data import arrays, images, sound
from edge.export.data.cache import cache_file, read_cached, write_cached
from edge.export.data.dataset import Dataset, Shape, Split, stratified
from edge.export.data.files import ARCHIVES, Files, open_files
from edge.export.data.layout import find_items, make_plan
from edge.export.progress import Progress, Silent
from edge.runtime.errors import BadFile, BadInput

__all__ = ["KINDS", "Dataset", "Split", "load_dataset", "stratified"]

KINDS = ("image", "audio", "array")


def load_dataset(
    spec: str | Path,
    *,
    input_shape: Shape | None = None,
    kind: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Loads a classification data set.

    Args:
        spec: "digits", or the path of a folder, .zip, .tar(.gz, .bz2, .xz) or .npz. A folder that holds nothing but
            one archive stands for it. Folders are classes; train and test folders on top of them are the splits.
        input_shape: of one sample as the model takes it, without the batch axis; None for channels, or for all of it,
            leaves the data's own.
        kind: "image", "audio" or "array" where a source holds several; by default what is found.
        test_fraction: share held out, the same of every class, where the source has no test split.
        seed: of the split and of the limit's choice.
        limit: at most so many samples in all.
        progress: told what is being read.

    Raises:
        BadFile: no such file, a damaged archive, or a damaged sample (named).
        BadInput: one class only, no samples, or options that do not fit.
    """
    progress = progress or Silent()
    if kind is not None and kind not in KINDS:
        raise BadInput(f"--kind: expected one of {', '.join(KINDS)}, found {kind!r}")
    if not 0 < test_fraction < 1:
        raise BadInput(f"test_fraction: expected above 0 and below 1, found {test_fraction!r}")
    if limit is not None and limit < 4:
        raise BadInput(f"--limit: expected 4 or more, found {limit}")
    if str(spec) == "digits":
        return images.load_digits(input_shape, test_fraction, seed, limit)
    path = _only_archive(Path(spec).expanduser())
    options = {
        "input_shape": input_shape and list(input_shape),
        "kind": kind,
        "test_fraction": test_fraction,
        "seed": seed,
        "limit": limit,
    }
    cached = cache_file(path, options)
    if cached is not None and (dataset := read_cached(cached)) is not None:
        progress.note(f"{path.name}: read from {cached}")
        return dataset
    name = images.dataset_name(path)
    if path.suffix == ".npz":
        if kind == "audio":
            raise BadInput(f"{path}: an .npz holds arrays or images, not audio")
        return arrays.load_arrays(name, path, input_shape, test_fraction, seed, limit)
    progress.stage(f"list {path.name}")
    files = open_files(path)
    names = files.names()
    kind = kind or _kind(path, names)
    items = find_items(path, names, sound.SUFFIXES if kind == "audio" else images.SUFFIXES)
    plan = make_plan(path, items, test_fraction, seed, limit)
    provenance = _provenance(files, plan.split, len(plan.train), len(plan.test), len(items))
    if kind == "audio":
        dataset = sound.load_sound(name, files, plan, input_shape, provenance, progress)
    else:
        train, test, preprocess = images.load_images(files, plan, input_shape, progress)
        y_train, y_test = (np.array([y for _, y in part], np.int64) for part in (plan.train, plan.test))
        augment = images.augmentation_for(preprocess)
        dataset = images.image_dataset(
            name, plan.labels, (train, y_train), (test, y_test), preprocess, provenance, augment
        )
    if cached is not None:
        write_cached(cached, dataset)
    return dataset


def _only_archive(path: Path) -> Path:
    """The archive in a folder that holds no samples of its own."""
    if not path.is_dir():
        return path
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    archives = [entry for entry in entries if entry.name.lower().endswith((*ARCHIVES, ".npz"))]
    if not archives or any(entry.is_dir() for entry in entries):
        return path
    if any(entry.name.lower().endswith((*images.SUFFIXES, *sound.SUFFIXES)) for entry in entries):
        return path
    if len(archives) > 1:
        raise BadInput(f"{path}: holds {len(archives)} archives ({', '.join(a.name for a in archives[:4])}): name one")
    return archives[0]


def _kind(path: Path, names: list[str]) -> str:
    pictures = any(name.lower().endswith(images.SUFFIXES) for name in names)
    recordings = any(name.lower().endswith(sound.SUFFIXES) for name in names)
    if pictures and recordings:
        raise BadInput(f"{path}: holds images and recordings: say which with --kind image or --kind audio")
    if not pictures and not recordings:
        raise BadInput(f"{path}: no images ({', '.join(images.SUFFIXES[:4])} ...) and no .wav files in it")
    return "image" if pictures else "audio"


def _provenance(files: Files, split: str, train: int, test: int, found: int) -> dict[str, Any]:
    provenance: dict[str, Any] = {
        "path": str(files.path),
        "split": split,
        "train": train,
        "test": test,
        "files": found,
    }
    if files.path.is_file():
        try:
            digest = hashlib.sha256()
            with open(files.path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            provenance["sha256"] = digest.hexdigest()
        except OSError as error:
            raise BadFile(f"{files.path}: cannot be read: {error.strerror}") from None
    return provenance
