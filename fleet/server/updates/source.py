"""What devices may fetch: published files by hash, and the repository's metadata by name."""

from __future__ import annotations

from edge.fleet.server.updates.repository import METADATA_NAME, ModelRepository
from edge.fleet.server.updates.store import BlobStore
from edge.runtime.errors import BadInput


class Source:
    """Answers `fetch(name, offset, length)` of devices, whatever it comes over.

    Everything here is public within the fleet, and a device believes none of it before it has verified it.
    """

    def __init__(self, repository: ModelRepository, store: BlobStore) -> None:
        self.repository = repository
        self.store = store

    def fetch(self, name: str, offset: int, length: int) -> bytes | None:
        """A chunk of the file with the SHA-256 `name`, or of the metadata file `name`; None if there is none.

        Raises:
            BadInput: a name, offset or length that cannot be one.
        """
        if not METADATA_NAME.fullmatch(name):
            return self.store.read(name, offset, length)
        if offset < 0 or length <= 0:
            raise BadInput(f"chunk of {length} bytes at {offset}: expected 1 or more at 0 or later")
        data = self.repository.read(name)
        return None if data is None else data[offset : offset + length]
