"""Where the SDK keeps files that it can make again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder, which may not exist yet: $EDGE_CACHE, else $XDG_CACHE_HOME/edge, else the platform's place."""
    chosen = os.environ.get("EDGE_CACHE")
    if chosen:
        return Path(chosen)
    # The XDG specification has relative paths ignored.
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if xdg.is_absolute():
        return xdg / "edge"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local", "edge", "Cache")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "edge"
    return Path.home() / ".cache" / "edge"
