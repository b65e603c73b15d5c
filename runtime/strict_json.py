"""JSON from a file or a wire: bounded in size and depth before it is parsed, without repeated keys."""

from __future__ import annotations

import json
import re
from typing import Any

from edge.runtime.errors import BadFile

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")


def parse_json(data: str | bytes, name: str, most: int, levels: int, *, fractions: bool = True) -> object:
    """JSON of at most `most` bytes and `levels` levels; NaN, infinities and repeated keys are refused.

    Args:
        name: of the file, for the messages.
        fractions: whether numbers may be other than integers.

    Raises:
        BadFile: saying what is wrong.
    """
    if len(data) > most:
        raise BadFile(f"{name}: {len(data):,} bytes; at most {most:,} are read")
    try:
        string = data.decode("utf-8") if isinstance(data, bytes) else data
    except UnicodeDecodeError as error:
        raise BadFile(f"{name}: not UTF-8 at byte {error.start}") from None
    if _depth(string) > levels:
        raise BadFile(f"{name}: nested deeper than {levels} levels")
    refuse = _no_number if fractions else _no_integer
    try:
        return json.loads(
            string,
            parse_constant=refuse,
            parse_float=None if fractions else refuse,
            object_pairs_hook=_unique_keys,
        )
    # ValueError: also an integer of more digits than Python converts.
    except ValueError as error:
        raise BadFile(f"{name}: not valid JSON: {error}") from None


def _depth(string: str) -> int:
    """Deepest nesting of brackets outside strings, counted before the recursive parser sees them."""
    deepest = level = 0
    for bracket in _BRACKET.findall(_STRING.sub("", string)):
        level += 1 if bracket in "[{" else -1
        deepest = max(deepest, level)
    return deepest


def _no_number(word: str) -> object:
    raise ValueError(f"{word} is not a JSON number")


def _no_integer(word: str) -> object:
    raise ValueError(f"{word[:20]} is no integer")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return made
