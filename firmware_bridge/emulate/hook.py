"""Exact instruction counts of an emulated CPU: emulate/counter.c, built once for this machine and loaded."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from edge.runtime.cache import cache_dir
from edge.runtime.errors import EdgeError, MissingDependency

NEVER = 2**64 - 1
REASON_LIMIT = 1
REASON_WATCHDOG = 2


class Counter(ctypes.Structure):
    """`struct counter` of counter.c."""

    _fields_ = (
        ("instructions", ctypes.c_uint64),
        ("limit", ctypes.c_uint64),
        ("watchdog", ctypes.c_uint64),
        ("reason", ctypes.c_uint32),
        ("riscv", ctypes.c_uint32),
        ("code_origin", ctypes.c_uint64),
        ("code_bytes", ctypes.c_uint64),
        ("code", ctypes.c_void_p),
        ("ram_origin", ctypes.c_uint64),
        ("ram_bytes", ctypes.c_uint64),
        ("ram", ctypes.c_void_p),
        ("stop", ctypes.c_void_p),
    )


@functools.cache
def count_block() -> ctypes.c_void_p:
    """The address of counter.c's hook.

    Raises:
        MissingDependency: zig is not installed.
        EdgeError: The hook cannot be built.
    """
    source = Path(__file__).with_name("counter.c")
    key = hashlib.sha256(source.read_bytes() + sys.platform.encode()).hexdigest()[:16]
    path = cache_dir() / "firmware" / f"counter-{key}.so"
    if not path.exists():
        if importlib.util.find_spec("ziglang") is None:
            raise MissingDependency("emulated boards need zig: pip install 'edge-deploy[firmware]'")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{os.urandom(6).hex()}.so")
        words = [sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", "-fPIC", "-fno-sanitize=undefined"]
        environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(cache_dir() / "zig")}
        run = subprocess.run(
            [*words, "-o", str(temporary), str(source)], capture_output=True, text=True, env=environment
        )
        if run.returncode != 0:
            raise EdgeError(f"the emulator's counter cannot be built: {run.stderr.strip()[:300]}")
        temporary.replace(path)
        temporary.with_suffix(".pdb").unlink(missing_ok=True)
    function = ctypes.CDLL(str(path)).edge_count_block
    return ctypes.cast(function, ctypes.c_void_p)
