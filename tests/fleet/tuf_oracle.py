"""A device and python-tuf's own client, side by side, before the same server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from unittest import mock

from tuf.api.exceptions import DownloadHTTPError, RepositoryError
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from edge.fleet.device.trusted_metadata import (
    ROOT_BYTES,
    SNAPSHOT_BYTES,
    TARGETS_BYTES,
    TIMESTAMP_BYTES,
    TrustedModels,
    UntrustedUpdate,
)
from edge.fleet.server.updates.repository import ModelRepository


class Served(dict[str, bytes]):
    """What a server gives, by file name: the repository's files, or an attacker's."""

    def metadata(self, name: str, most: int) -> bytes | None:
        return self.get(name)

    @classmethod
    def of(cls, repository: ModelRepository) -> Served:
        return cls({path.name: path.read_bytes() for path in repository.metadata.iterdir()})


class _Fetcher(FetcherInterface):
    def __init__(self, served: Served) -> None:
        self._served = served

    def _fetch(self, url: str) -> Iterator[bytes]:
        data = self._served.get(url.rpartition("/")[2])
        if data is None:
            raise DownloadHTTPError("not found", 404)
        return iter([data]) if data else iter([])


class Pair:
    """Two clients that were given the same root.

    Args:
        folder: theirs.
        root: the trusted root.
        now: the clock of both.
    """

    def __init__(self, folder: Path, root: bytes, now: datetime) -> None:
        self.ours, self.theirs, self.now = folder / "ours", folder / "theirs", now
        TrustedModels.provision(self.ours, root)
        self.theirs.mkdir(parents=True)
        (self.theirs / "root.json").write_bytes(root)

    def refresh(self, served: Served) -> str | None:
        """Lets both refresh; None if ours believes what is served, else why not. Theirs must agree."""
        told: str | None = None
        try:
            TrustedModels(self.ours, served, now=lambda: self.now.timestamp()).refresh()
        except UntrustedUpdate as error:
            told = str(error)
        theirs = self.refresh_theirs(served)
        assert (told is None) == (theirs is None), f"ours: {told}; python-tuf: {theirs}"
        return told

    def refresh_theirs(self, served: Served) -> str | None:
        config = UpdaterConfig(
            root_max_length=ROOT_BYTES,
            timestamp_max_length=TIMESTAMP_BYTES,
            snapshot_max_length=SNAPSHOT_BYTES,
            targets_max_length=TARGETS_BYTES,
        )
        place = "tuf.ngclient._internal.trusted_metadata_set.datetime"
        with mock.patch(place, wraps=__import__("datetime")) as clock:
            clock.datetime.now = lambda zone: self.now
            clock.timezone = timezone
            try:
                updater = Updater(
                    str(self.theirs), "http://fleet/", fetcher=_Fetcher(served), config=config, bootstrap=None
                )
                updater.refresh()
            except (RepositoryError, DownloadHTTPError) as error:
                return f"{type(error).__name__}: {error}"
            except Exception as error:  # python-tuf's DownloadLengthMismatchError and others
                return f"{type(error).__name__}: {error}"
        return None

    def copy(self, folder: Path) -> Pair:
        """Another pair that knows what this one knows."""
        made = object.__new__(Pair)
        made.ours, made.theirs, made.now = folder / "ours", folder / "theirs", self.now
        shutil.copytree(self.ours, made.ours)
        shutil.copytree(self.theirs, made.theirs, symlinks=True)
        return made
