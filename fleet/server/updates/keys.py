"""The keys that sign the repository's metadata: Ed25519, one file each, those of different roles apart.

`root` and `targets` say what devices trust, and are needed only to publish and to rotate keys: their files may be moved
to a medium that is kept offline, and be found there with `--keys`. `snapshot` and `timestamp` sign on their own, day
by day, and stay on the server.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from edge.runtime.errors import BadFile, EdgeError
from edge.runtime.fields import reason
from edge.runtime.whole_file import whole_file

ROLES = ("root", "targets", "snapshot", "timestamp")
OFFLINE_ROLES = ("root", "targets")


class Keys:
    """Private keys by role and key id.

    Args:
        folder: where new keys are written, as ROLE/KEYID.pem.
        others: folders of the same form where keys are looked for too, as a mounted medium.
    """

    def __init__(self, folder: Path, others: Sequence[Path] = ()) -> None:
        self.folder = folder
        self.others = tuple(others)

    def new(self, role: str) -> SSlibKey:
        """Makes a key for `role`; its file can be read by its owner only."""
        signer = CryptoSigner.generate_ed25519()
        path = self.folder / role / f"{signer.public_key.keyid}.pem"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with whole_file(path) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(signer.private_bytes)
        return signer.public_key

    def find(self, role: str, key: Key) -> CryptoSigner | None:
        """The signer of `key`, or None if its file is not here.

        Raises:
            BadFile: the file is there, and is not this key.
        """
        for folder in (self.folder, *self.others):
            path = folder / role / f"{key.keyid}.pem"
            try:
                pem = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise EdgeError(f"{path}: cannot be read: {reason(error)}") from None
            try:
                from cryptography.hazmat.primitives.serialization import load_pem_private_key

                assert isinstance(key, SSlibKey)
                return CryptoSigner(load_pem_private_key(pem, None), key)
            except Exception as error:  # cryptography and securesystemslib raise many kinds
                raise BadFile(f"{path}: is not the key of {role}: {reason(error)}") from None
        return None

    def need(self, role: str, key: Key) -> CryptoSigner:
        """As `find`.

        Raises:
            EdgeError: the file is nowhere.
        """
        signer = self.find(role, key)
        if signer is None:
            raise EdgeError(
                f"{self.folder / role}: the {role} key {key.keyid[:12]}… is not here: attach the medium that holds it "
                "and name its folder with --keys"
            )
        return signer
