"""The C source of Monocypher, for the firmware: that of pymonocypher's source distribution, which the host signs with.

It is downloaded by pip the first time and kept in the cache; what is not the version that we know is refused.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from edge.runtime.cache import cache_dir
from edge.runtime.errors import BadFile, EdgeError
from edge.runtime.whole_file import whole_file

VERSION = "4.0.3.4"
FLAGS = ("-DBLAKE2_NO_UNROLLING",)
"""For the compiler: a loop instead of twelve copies of a round."""

_ARCHIVE_SHA256 = "5e56e3d3eb770a53e0b9f6274146663c11a11f3d0de5cd48e3be0428d1b07a4a"
_FILES = ("monocypher.c", "monocypher.h")
_LARGEST_FILE = 1 << 20


def monocypher_folder() -> Path:
    """The folder that holds monocypher.c and monocypher.h.

    Raises:
        EdgeError: pip cannot download it.
        BadFile: what it downloaded is not what we know.
    """
    folder = cache_dir() / "firmware" / f"monocypher-{VERSION}"
    if all((folder / name).is_file() for name in _FILES):
        return folder
    with tempfile.TemporaryDirectory() as scratch:
        wanted = f"pymonocypher=={VERSION}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        command += ["--no-binary", "pymonocypher", "--dest", scratch, wanted]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        archives = list(Path(scratch).glob("*.tar.gz"))
        if len(archives) != 1:
            lines = result.stderr.strip().splitlines() or ["no archive"]
            raise EdgeError(f"the source of {wanted}, which firmware needs, cannot be downloaded by pip: {lines[-1]}")
        data = archives[0].read_bytes()
    if hashlib.sha256(data).hexdigest() != _ARCHIVE_SHA256:
        raise BadFile(f"the source of {wanted} from the package index is not the one that is known (SHA-256 differs)")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _unpack(data).items():
        with whole_file(folder / name) as file:
            file.write(content)
    return folder


def _unpack(archive: bytes) -> dict[str, bytes]:
    import io

    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for name in _FILES:
            member = tar.extractfile(f"pymonocypher-{VERSION}/{name}")
            assert member is not None  # the archive's hash is known
            found[name] = member.read(_LARGEST_FILE)
    return found
