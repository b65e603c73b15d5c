"""Learned weights as a file beside the model: written whole, tied to the model's program, never trusted when read.

The file begins with the weights as every device has them (runtime/core/learn/learn.h: a header with the program's
SHA-256 and one of the content). What follows is ours: a JSON object with the labels, and the SHA-256 of all before it.
The weights alone, as a microcontroller gives them, are such a file too.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from edge.runtime.errors import BadFile
from edge.runtime.fields import Fields, text
from edge.runtime.file_bytes import read_bounded, sha256
from edge.runtime.whole_file import whole_file

SUFFIX = ".learned"
MAX_BYTES = 1 << 28
MAX_LABEL = 200
MAX_CLASSES = 65536
_DIGEST = 32


@dataclass(frozen=True)
class LearnedFile:
    """What a file of learned weights holds.

    Args:
        weights: header and weights, as the C core takes them.
        labels: names of all classes, the model's own first; empty where the file names none.
        stream: whose samples were being learned, as the caller named it, and how many of them were: work that was
            interrupted goes on there. "" and 0 where nothing was left.
    """

    weights: bytes
    labels: tuple[str, ...] = ()
    stream: str = ""
    done: int = 0


def write_learned(path: str | os.PathLike[str], learned: LearnedFile) -> None:
    """Writes the file whole, or leaves the one that was there.

    Raises:
        EdgeError: it cannot be written.
    """
    record: dict[str, Any] = {"labels": list(learned.labels), "stream": learned.stream, "done": learned.done}
    body = learned.weights + json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
    with whole_file(path) as file:
        file.write(body)
        file.write(bytes.fromhex(sha256(body)))


def read_learned(path: str | os.PathLike[str]) -> bytes:
    """The file's bytes.

    Raises:
        BadFile: missing, unreadable, empty or too large.
    """
    return read_bounded(path, MAX_BYTES, "no file of learned weights")


def split_learned(name: str, data: bytes, used: int, classes: int) -> LearnedFile:
    """Checks what follows the `used` bytes of weights.

    Args:
        name: of the file, for messages.
        classes: that the weights are for.

    Raises:
        BadFile: damaged, or the labels are not those of so many classes.
    """
    weights, rest = data[:used], data[used:]
    if not rest:
        return LearnedFile(weights)
    body, digest = data[:-_DIGEST], data[-_DIGEST:]
    if len(rest) <= _DIGEST or bytes.fromhex(sha256(body)) != digest:
        raise BadFile(f"{name}: the labels behind the learned weights are damaged")
    try:
        record = Fields(json.loads(rest[:-_DIGEST].decode()), f"{name}: labels")
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise BadFile(f"{name}: the labels behind the learned weights are no JSON") from None
    labels = record.items("labels", MAX_CLASSES, lambda value, where: text(value, where, MAX_LABEL))
    stream, done = record.text("stream", 200), record.integer("done", 0, 1 << 53)
    record.done()
    if labels and (len(labels) != classes or len(set(labels)) != classes):
        raise BadFile(f"{name}: {len(labels)} labels for {classes} classes")
    return LearnedFile(weights, labels, stream, done)
