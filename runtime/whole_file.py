"""Files that appear complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edge.runtime.errors import EdgeError


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a new file beside `path`; on a clean exit it is flushed to disk and renamed to `path`, else removed.

    Raises:
        EdgeError: the folder is missing or not writable, or the disk is full; `path` is as it was.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise EdgeError(f"{target}: cannot be written ({error.strerror or error}): nothing was left behind") from error
    finally:
        temporary.unlink(missing_ok=True)
