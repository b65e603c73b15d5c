"""Errors of the fleet; like all of edge's, each is one line that says what was wrong, where, and what to do."""

from edge.runtime.errors import EdgeError


class FleetError(EdgeError):
    """Something in the fleet's state or services is not as it must be."""


class BadMessage(FleetError):
    """A message is too large, malformed, or holds a field that is wrong; the text names the field."""


class Refused(FleetError):
    """The fleet does not grant what was asked: a token, certificate, identity or state does not allow it."""
