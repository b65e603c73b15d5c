"""Typed fields out of parsed JSON: nothing is coerced or skipped, errors name the field; and short error texts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from edge.runtime.errors import BadFile

T = TypeVar("T")
_ABSENT = object()

# Control characters, line separators, lone surrogates, and the marks that reverse the direction of what follows:
# text from a file ends up in terminals and file names.
_UNPRINTABLE = "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"


class Fields:
    """One JSON object that is being read; `done` refuses whatever was not asked for.

    Args:
        value: what `json.loads` gave; anything but an object is refused.
        where: path of the object for messages, for example "inputs[0].preprocess".

    Raises:
        BadFile: from every method, as "<where>.<name>: <what was wrong>".
    """

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise BadFile(f"{where}: expected an object, found {kind_of(value)}")
        self._left: dict[str, Any] = dict(value)
        self.where = where

    def done(self) -> None:
        if self._left:
            names = ", ".join(repr(str(name)[:40]) for name in sorted(self._left)[:3])
            raise BadFile(f"{self.where}: unknown field {names}")

    def fail(self, name: str, text: str) -> BadFile:
        return BadFile(f"{self.where}.{name}: {text}")

    def raw(self, name: str, default: object = _ABSENT) -> Any:
        value = self._left.pop(name, default)
        if value is _ABSENT:
            raise BadFile(f"{self.where}: field {name!r} is missing")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        return integer(self.raw(name), f"{self.where}.{name}", low, high)

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        value = self.raw(name)
        return None if value is None else integer(value, f"{self.where}.{name}", low, high)

    def number(self, name: str, low: float, high: float) -> float:
        return number(self.raw(name), f"{self.where}.{name}", low, high)

    def optional_number(self, name: str, low: float, high: float) -> float | None:
        value = self.raw(name)
        return None if value is None else number(value, f"{self.where}.{name}", low, high)

    def boolean(self, name: str) -> bool:
        value = self.raw(name)
        if not isinstance(value, bool):
            raise self.fail(name, f"expected true or false, found {kind_of(value)}")
        return value

    def text(self, name: str, longest: int, pattern: re.Pattern[str] | None = None) -> str:
        return text(self.raw(name), f"{self.where}.{name}", longest, pattern)

    def choice(self, name: str, options: Iterable[str]) -> str:
        value = self.raw(name)
        options = tuple(options)
        if not isinstance(value, str) or value not in options:
            raise self.fail(name, f"expected one of {', '.join(options)}; found {shown(value)}")
        return value

    def items(self, name: str, most: int, read: Callable[[Any, str], T]) -> tuple[T, ...]:
        """Reads a list whose entries `read(value, where)` turns into values."""
        value = self.raw(name)
        if not isinstance(value, list):
            raise self.fail(name, f"expected a list, found {kind_of(value)}")
        if len(value) > most:
            raise self.fail(name, f"{len(value)} entries; at most {most} are read")
        return tuple(read(item, f"{self.where}.{name}[{index}]") for index, item in enumerate(value))

    def table(self, name: str, most: int, read: Callable[[Any, str], T]) -> dict[str, T]:
        """Reads an object whose keys are data (file names, operators) and whose values `read` reads."""
        value = self.raw(name)
        if not isinstance(value, dict):
            raise self.fail(name, f"expected an object, found {kind_of(value)}")
        if len(value) > most:
            raise self.fail(name, f"{len(value)} entries; at most {most} are read")
        return {key: read(item, f"{self.where}.{name}[{key[:60]!r}]") for key, item in value.items()}


def integer(value: object, where: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadFile(f"{where}: expected an integer, found {kind_of(value)}")
    if not low <= value <= high:
        raise BadFile(f"{where}: expected {low} to {high}, found {shown(value)}")
    return value


def number(value: object, where: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadFile(f"{where}: expected a number, found {kind_of(value)}")
    # Compared before float(): an integer of a thousand digits does not fit a float.
    if isinstance(value, float) and not math.isfinite(value):
        raise BadFile(f"{where}: expected a finite number, found {value}")
    if not low <= value <= high:
        raise BadFile(f"{where}: expected {low:g} to {high:g}, found {shown(value)}")
    return float(value)


def text(value: object, where: str, longest: int, pattern: re.Pattern[str] | None = None) -> str:
    if not isinstance(value, str):
        raise BadFile(f"{where}: expected text, found {kind_of(value)}")
    if len(value) > longest:
        raise BadFile(f"{where}: {len(value)} characters; at most {longest} are read")
    # Compiling the pattern takes more memory than a manifest; most texts do not need it.
    if not (value.isascii() and value.isprintable()) and re.search(_UNPRINTABLE, value):
        raise BadFile(f"{where}: holds a control character")
    if pattern is not None and not pattern.fullmatch(value):
        raise BadFile(f"{where}: {shown(value)} does not have the form {pattern.pattern}")
    return value


def kind_of(value: object) -> str:
    """The JSON name of a value's type."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def shown(value: object) -> str:
    """A value short enough for a one-line message."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**30:
        return f"an integer of {value.bit_length()} bits"
    body = repr(value)
    return body if len(body) <= 60 else body[:57] + "..."


def reason(error: BaseException) -> str:
    """What an exception of somebody else says, short enough for a one-line message."""
    body = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = body.strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
