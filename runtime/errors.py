"""Errors that a user is meant to read: one line that says what was wrong, where, and what to do."""


class EdgeError(Exception):
    """Base of every error the SDK raises on purpose; the CLI prints it as one line and exits with 1."""


class BadFile(EdgeError):
    """A file is missing, truncated, malformed, or fails a hash, size or path check."""


class Unsupported(EdgeError):
    """A model needs an operator, delegate, dtype or engine that is not available here."""


class BadInput(EdgeError):
    """An array, image, recording or option does not fit what the model or command expects."""


class MissingDependency(EdgeError):
    """A package that this feature needs is not installed; the message names the extra to install."""


class StillWaiting(EdgeError):
    """The time that was given for waiting is over, and what was waited for has not come; nothing is lost."""


class Interrupted(EdgeError):
    """The user stopped long work with Ctrl-C; the message says how to go on. The CLI exits with 130."""
