"""What engines write to stderr on their own, kept from the user's terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import IO


@contextmanager
def logged_to(log: IO[str]) -> Iterator[None]:
    """Sends to `log`, a real file, what goes to sys.stderr and what libraries write to the process's stderr."""
    try:
        kept = os.dup(2)
    except OSError:  # a daemon may have closed it
        with redirect_stderr(log):
            yield
        return
    sys.stderr.flush()
    os.dup2(log.fileno(), 2)
    try:
        with redirect_stderr(log):
            yield
    finally:
        log.flush()
        os.dup2(kept, 2)
        os.close(kept)
