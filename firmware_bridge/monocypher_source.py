"""The C source of Monocypher, for the firmware: that of pymonocypher's source distribution, which the host signs with.

It is downloaded by pip the first time and kept in the cache; what is not the version that we know is refused.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from edge.runtime.cache import cache_dir
from edge.runtime.errors import BadFile, EdgeError
from edge.runtime.whole_file import whole_file

VERSION = "4.0.3.4"
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


def small_source(text: str) -> str:
    """Monocypher's source with what is unrolled in it as loops: firmware/signature has them.

    Args:
        text: monocypher.c of VERSION.

    Returns:
        The source, for an include path with firmware/signature. It computes the same.
    """
    text = _between(text, "#define FE_CARRY", "\n\n", '#include "field.h"\n\n')
    for name in (
        "fe_mul_small(fe h, const fe f, i32 g)",
        "fe_mul(fe h, const fe f, const fe g)",
        "fe_sq(fe h, const fe f)",
    ):
        text = _between(text, f"static void {name}\n", "\n}\n", "")
    start = text.index("static void fe_frombytes_mask(")
    end = text.index("FE_CARRY;", start)
    limbs = re.sub(r"i64 t(\d) = ", r"t[\1] = ", text[start:end]).replace("{\n", "{\n\ti64 t[10];\n", 1)
    text = text[:start] + limbs + "fe_carry(h, t);" + text[end + len("FE_CARRY;") :]
    # A third of the additions more, of 256 doublings, for two points in place of eight.
    text = _replace(text, "#define B_W_WIDTH 5", "#define B_W_WIDTH 3")
    start = text.index("static const ge_precomp b_window[8]")
    third = [found.start() for found in re.finditer(r"\t\{\{", text[start:])][2]
    text = _between(text[: start + third] + "};\n" + text[start + third :], "\t{{10861363,", "\n};\n", "")
    text = _replace(text, "b_window[8]", "b_window[2]")
    text = _replace(text, "static void blake2b_compress(", '#include "blake2b_mix.h"\n\nstatic void blake2b_compress(')
    start = text.index("\t// init work vector\n")
    return (
        text[:start]
        + "\tblake2b_mix(ctx, sigma, is_last_block);\n"
        + text[text.index("}\n\nvoid crypto_blake2b_keyed_init(", start) :]
    )


def _replace(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1  # the archive's hash is known
    return text.replace(old, new)


def _between(text: str, begin: str, end: str, new: str) -> str:
    """Puts `new` in place of what goes from `begin` to the next `end`, both with it."""
    assert text.count(begin) == 1
    start = text.index(begin)
    return text[:start] + new + text[text.index(end, start) + len(end) :]


def _unpack(archive: bytes) -> dict[str, bytes]:
    import io

    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for name in _FILES:
            member = tar.extractfile(f"pymonocypher-{VERSION}/{name}")
            assert member is not None  # the archive's hash is known
            found[name] = member.read(_LARGEST_FILE)
    return found
