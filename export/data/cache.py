"""Decoded data sets, kept as .npz under $EDGE_CACHE so that a second run starts at once."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from edge.export.data.dataset import Dataset, Split
from edge.runtime.errors import BadFile
from edge.runtime.preprocess import preprocess_from_dict

_VERSION = 1


def cache_file(path: Path, options: dict[str, Any]) -> Path | None:
    """Where the data set read from `path` with `options` is kept; None without $EDGE_CACHE.

    The name changes with the source's size or time of change. Folders are not cached: looking at every file costs as
    much as reading them.
    """
    root = os.environ.get("EDGE_CACHE")
    if not root or not path.is_file():
        return None
    stat = path.stat()
    key = json.dumps([_VERSION, str(path.resolve()), stat.st_size, stat.st_mtime_ns, options], sort_keys=True)
    return Path(root) / "data" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"


def read_cached(file: Path) -> Dataset | None:
    """The data set in a cache file; None if there is none or it is damaged."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            info = json.loads(bytes(arrays["info"]))
            preprocess = preprocess_from_dict(info["preprocess"])
            train = Split(arrays["x_train"], arrays["y_train"], preprocess)
            test = Split(arrays["x_test"], arrays["y_test"], preprocess)
        labels = tuple(info["labels"])
        return Dataset(info["name"], labels, train, test, preprocess, info["provenance"], info["augment"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, BadFile):
        return None


def write_cached(file: Path, dataset: Dataset) -> None:
    """Writes a cache file whole or not at all; without room for it there is none."""
    info = {
        "name": dataset.name,
        "labels": list(dataset.labels),
        "preprocess": dataset.preprocess.to_dict(),
        "provenance": dataset.provenance,
        "augment": dataset.augment,
    }
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as stream:
            temporary = stream.name
            np.savez(
                stream,
                info=np.frombuffer(json.dumps(info).encode(), np.uint8),
                x_train=dataset.train.x,
                y_train=dataset.train.y,
                x_test=dataset.test.x,
                y_test=dataset.test.y,
            )
        os.replace(temporary, file)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
