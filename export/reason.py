"""What somebody else's exception says, in one line, for the messages that quote it."""

from __future__ import annotations

import os
import traceback

USER_MODULE = "_edge_user_"
"""How the names begin under which users' own files are imported (see `edge.export.models.spec`)."""

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


def in_user_code(error: BaseException) -> str:
    """ " at my_model.py:12", the line of the user's own file that was running last; "" if none was.

    Args:
        error: what was raised there or below; its causes are searched too.
    """
    place = ""
    cause: BaseException | None = error
    while cause is not None and not place:
        for frame, line in traceback.walk_tb(cause.__traceback__):
            if str(frame.f_globals.get("__name__", "")).startswith(USER_MODULE):
                place = f" at {_short(frame.f_code.co_filename)}:{line}"
        cause = cause.__cause__ or cause.__context__
    return place


def _short(path: str) -> str:
    """A path as seen from the working directory, if it lies below."""
    folder = os.getcwd() + os.sep
    return path.removeprefix(folder)
