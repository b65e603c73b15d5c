"""Errors of the fleet; like all of edge's, each is one line that says what was wrong, where, and what to do."""

from edge.runtime.errors import EdgeError
from edge.runtime.fields import reason


class FleetError(EdgeError):
    """Something in the fleet's state or services is not as it must be."""


class BadMessage(FleetError):
    """A message is too large, malformed, or holds a field that is wrong; the text names the field."""


class Refused(FleetError):
    """The fleet does not grant what was asked: a token, certificate, identity or state does not allow it."""


def cause(error: BaseException) -> str:
    """What is behind an exception, in a few words for a log: what the database, or the file system, says."""
    inner = getattr(error, "orig", None) or error  # SQLAlchemy's own text is a page with the statement
    at = f": {inner.filename}" if isinstance(inner, OSError) and inner.filename else ""
    return f"{reason(inner)}{at}"
