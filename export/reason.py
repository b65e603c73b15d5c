"""What somebody else's exception says, in one line, for the messages that quote it."""

from __future__ import annotations

_LONGEST = 300


def first_line(error: BaseException, *, named: bool = False) -> str:
    """The first line of an exception's text that is not blank, at most 300 characters of it.

    Args:
        error: an exception; one without text is told by its type's name.
        named: put the type's name before the text: the text of a KeyError, say, is only a key.
    """
    name = type(error).__name__
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:_LONGEST]
    return (f"{name}: {text}" if named else text) if text else name
