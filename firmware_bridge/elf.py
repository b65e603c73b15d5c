"""What is in a linked ELF file: how many bytes of flash each part of the firmware takes, and of RAM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIBRARY = "compiler's arithmetic"
CONSTANTS = "text and tables"


@dataclass(frozen=True)
class Sizes:
    """Bytes of a firmware's code and data.

    Attributes:
        code: All that lies in flash, storage not counted.
        parts: Of them, part to bytes; CONSTANTS is what has no name of its own, such as messages.
        data_bytes: Variables in RAM, the stack not counted.
    """

    code: int
    parts: dict[str, int]
    data_bytes: int


def measure_sizes(elf: Path, objects: Mapping[str, Sequence[Path]]) -> Sizes:
    """Attributes every function and table of `elf` to a part.

    Args:
        elf: As linked, with its symbols.
        objects: Part to the object files that were linked.
    """
    from elftools.elf.elffile import ELFFile

    globals_of: dict[str, str] = {}
    files_of: dict[str, str] = {}
    for part, paths in objects.items():
        for path in paths:
            files_of[path.name.rpartition("-")[0] + ".c"] = part
            with path.open("rb") as file:
                for symbol in _symbols(ELFFile(file)):
                    if symbol["st_info"]["bind"] != "STB_LOCAL" and symbol["st_shndx"] != "SHN_UNDEF":
                        globals_of.setdefault(symbol.name, part)
    parts: dict[str, int] = dict.fromkeys([*objects, LIBRARY], 0)
    with elf.open("rb") as file:
        image = ELFFile(file)
        code = data = 0
        flash: set[int] = set()
        for index, section in enumerate(image.iter_sections()):
            if not section["sh_flags"] & 2 or section.name in (".storage", ".stack"):
                continue
            if section.name in (".bss", ".data"):
                data += section["sh_size"]
            if section.name != ".bss":
                code += section["sh_size"]
                flash.add(index)
        seen: set[int] = set()
        current = ""
        for symbol in _symbols(image):
            kind = symbol["st_info"]["type"]
            if kind == "STT_FILE":
                current = symbol.name
            if kind not in ("STT_FUNC", "STT_OBJECT") or symbol["st_shndx"] not in flash or not symbol["st_size"]:
                continue
            if symbol["st_value"] in seen:  # another name for the same
                continue
            seen.add(symbol["st_value"])
            if symbol["st_info"]["bind"] == "STB_LOCAL":
                part = files_of.get(Path(current).name, LIBRARY)
            else:
                part = globals_of.get(symbol.name, LIBRARY)
            parts[part] += symbol["st_size"]
    parts[CONSTANTS] = max(code - sum(parts.values()), 0)
    return Sizes(code, parts, data)


def defined(path: Path) -> set[str]:
    """The global symbols that an object file defines."""
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as file:
        return {
            symbol.name
            for symbol in _symbols(ELFFile(file))
            if symbol["st_info"]["bind"] != "STB_LOCAL" and symbol["st_shndx"] != "SHN_UNDEF" and symbol.name
        }


def undefined(path: Path) -> set[str]:
    """The symbols that an object file wants of others."""
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as file:
        return {symbol.name for symbol in _symbols(ELFFile(file)) if symbol["st_shndx"] == "SHN_UNDEF" and symbol.name}


def _symbols(elf: Any) -> list[Any]:
    table = elf.get_section_by_name(".symtab")
    return [] if table is None else list(table.iter_symbols())
