"""The version of the installed distribution."""

from importlib import metadata


def version() -> str:
    """For example "0.1.0"; "unknown" when run from a checkout that was never installed."""
    try:
        return metadata.version("edge-deploy")
    except metadata.PackageNotFoundError:
        return "unknown"
