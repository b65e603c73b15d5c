"""The TUF repository of models: what is published, signed so that a device can tell what is new, whole and for it.

Four roles, each with its own key (TUF specification 1.0.33): `root` names the keys, `targets` the files, `snapshot` the
versions of both, and `timestamp`, which lives for a day, that all this is what holds now. Files are consistent
snapshots: `N.root.json`, `N.targets.json`, `N.snapshot.json`, and `timestamp.json`, which is written last and so makes
a publication appear whole or not at all.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer
from tuf.repository import Repository

from edge.fleet.server.updates.keys import ROLES, Keys
from edge.fleet.variant import Variant
from edge.runtime.errors import BadFile, BadInput, EdgeError
from edge.runtime.fields import reason
from edge.runtime.whole_file import whole_file

LIFE = {
    "root": timedelta(days=365),
    "targets": timedelta(days=365),
    "snapshot": timedelta(days=7),
    "timestamp": timedelta(days=1),
}
"""How long what a role signed is believed. An attacker who withholds news can do so for the timestamp's life."""

MAX_TARGETS_BYTES = 4 << 20
"""Of `targets.json`; a device reads no more. It holds about 3,000 variants."""

METADATA_NAME = re.compile(r"timestamp\.json|[1-9][0-9]{0,8}\.(root|targets|snapshot)\.json")

# Snapshots and targets of so many versions are kept, for devices that are in the middle of an update.
_KEPT = 16
_SERIALIZER = JSONSerializer(compact=True)


def _now() -> datetime:
    return datetime.now(timezone.utc)


class ModelRepository(Repository):
    """The repository in one folder: `metadata/`, and `keys/` unless they were moved away.

    For one process at a time: `locked` makes others wait.

    Args:
        folder: made by `create`.
        keys: further folders with keys.
        now: the clock.
    """

    def __init__(self, folder: Path, *, keys: Sequence[Path] = (), now: Callable[[], datetime] = _now) -> None:
        self.folder = folder
        self.metadata = folder / "metadata"
        self.keys = Keys(folder / "keys", keys)
        self._now = now
        if not (self.metadata / "1.root.json").is_file():
            raise BadFile(f"{folder}: holds no TUF repository: restore your backup of the fleet's folder")

    @classmethod
    def create(cls, folder: Path, *, now: Callable[[], datetime] = _now) -> ModelRepository:
        """Makes keys and the first metadata in `folder`; a repository that is there already is opened.

        Raises:
            EdgeError: the folder cannot be written.
        """
        metadata = folder / "metadata"
        if not (metadata / "1.root.json").is_file():
            try:
                metadata.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise EdgeError(f"{folder}: cannot be made: {reason(error)}") from None
            keys = Keys(folder / "keys")
            root = Root(expires=_expiry(now(), "root"), consistent_snapshot=True)
            for role in ROLES:
                root.add_key(keys.new(role), role)
            signed = Metadata(root)
            for key in root.roles["root"].keyids:
                signed.sign(keys.need("root", root.keys[key]))
            _write(metadata / "1.root.json", signed)
        made = cls(folder, now=now)
        with made.locked():
            made._complete()
        return made

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the repository against other processes."""
        with open(self.folder / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # What tuf.repository.Repository asks for.

    def open(self, role: str) -> Metadata[Any]:
        """The newest metadata of `role`; version 0, unsigned, if there is none yet."""
        if role == "timestamp":
            path: Path | None = self.metadata / "timestamp.json"
            assert path is not None
            path = path if path.is_file() else None
        else:
            versions = self._versions(role)
            path = self.metadata / f"{versions[-1]}.{role}.json" if versions else None
        if path is None:
            kinds: dict[str, Any] = {"timestamp": Timestamp, "snapshot": Snapshot, "targets": Targets}
            made: Metadata[Any] = Metadata(kinds[role]())
            made.signed.version = 0
            return made
        try:
            return Metadata.from_file(str(path))
        except (DeserializationError, OSError, ValueError) as error:
            raise BadFile(f"{path}: not TUF metadata: {reason(error)}") from None

    def close(self, role: str, md: Metadata[Any]) -> None:
        """Signs a new version of `role` with all its keys, and writes it."""
        signed = md.signed
        signed.version += 1
        signed.expires = _expiry(self._now(), role)
        md.signatures.clear()
        if role == "root":
            # The last root's keys too: a device goes from one root to the next (section 5.3.4).
            last = self.root() if signed.version > 1 else signed
            pairs = [each.keys[key] for each in (last, signed) for key in each.roles["root"].keyids]
            unique = {key.keyid: key for key in pairs}
            signers = [self.keys.need("root", key) for key in unique.values()]
        else:
            root = self.root()
            signers = [self.keys.need(role, root.keys[key]) for key in root.roles[role].keyids]
        for signer in signers:
            md.sign(signer, append=True)
        data = md.to_bytes(_SERIALIZER)
        if role == "targets" and len(data) > MAX_TARGETS_BYTES:
            raise BadInput(
                f"targets.json: {len(data):,} bytes; devices read {MAX_TARGETS_BYTES:,}: remove versions that no "
                "device runs (edge fleet models)"
            )
        name = "timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json"
        _write(self.metadata / name, md)

    @property
    def targets_infos(self) -> dict[str, MetaFile]:
        return {"targets.json": self._info("targets")}

    @property
    def snapshot_info(self) -> MetaFile:
        return self._info("snapshot")

    # What the fleet asks for.

    def variants(self) -> dict[str, Variant]:
        """What is published, by target path."""
        return {path: Variant.from_target(path, target.to_dict()) for path, target in self.targets().targets.items()}

    def publish(self, variants: Iterable[Variant]) -> None:
        """Adds variants; their files must be in the store already. What is published is never changed.

        Raises:
            BadInput: another file is published under the same path.
            EdgeError: the targets key is not here.
        """
        new = {
            variant.path: TargetFile(
                variant.blob.length,
                {"sha256": variant.blob.sha256},
                variant.path,
                {"custom": variant.to_custom()},
            )
            for variant in variants
        }
        with self.locked():
            held = self.targets().targets
            for path, target in new.items():
                if path in held and held[path].hashes != target.hashes:
                    raise BadInput(f"{path}: is published already, with other contents: give it another --version")
            if any(held.get(path) != target for path, target in new.items()):
                with self.edit_targets() as targets:
                    targets.targets.update(new)
            self._complete()

    def remove(self, paths: Iterable[str]) -> None:
        """Takes variants out: devices that have them keep them, none gets them any more."""
        with self.locked():
            gone = set(paths) & set(self.targets().targets)
            if gone:
                with self.edit_targets() as targets:
                    for path in gone:
                        del targets.targets[path]
            self._complete()

    def rotate(self, role: str) -> str:
        """Replaces the key of `role` by a new one and signs everything that needs it; returns the new key's id.

        Devices follow from the root that they know to the newest, one by one; one that never saw the new root refuses
        what the new key signed.

        Raises:
            EdgeError: the root key, or the key that a consequence must be signed with, is not here.
        """
        if role not in ROLES:
            raise BadInput(f"role {role!r}: expected one of {', '.join(ROLES)}")
        with self.locked():
            root = self.root()
            for name in ("root", "snapshot", "timestamp"):
                for key in root.roles[name].keyids:
                    self.keys.need(name, root.keys[key])
            new = self.keys.new(role)
            with self.edit_root() as edited:
                for key in list(edited.roles[role].keyids):
                    edited.revoke_key(key, role)
                edited.add_key(new, role)
            self._complete()
        return str(new.keyid)

    def renew(self) -> dict[str, str]:
        """Signs again what expires before half its life is left, where the key is here; the server calls it hourly.

        Returns:
            By role, what a person should know: that its key is not here, and when it expires.
        """
        told: dict[str, str] = {}
        with self.locked():
            for role in ("root", "targets"):
                signed = self.open(role).signed
                left = signed.expires - self._now()
                if left > LIFE[role] / 2:
                    continue
                root = self.root()
                if all(self.keys.find(role, root.keys[key]) for key in root.roles[role].keyids):
                    with self.edit(role):
                        pass
                else:
                    told[role] = f"expires on {signed.expires:%Y-%m-%d} and its key is not here"
            self._complete()
        return told

    def read(self, name: str) -> bytes | None:
        """Metadata by its file name, or None if there is none; nothing else can be read this way."""
        if not METADATA_NAME.fullmatch(name):
            return None
        try:
            return (self.metadata / name).read_bytes()
        except FileNotFoundError:
            return None

    def trusted_root(self) -> bytes:
        """The newest root: what a device is given when it is enrolled."""
        versions = self._versions("root")
        return (self.metadata / f"{versions[-1]}.root.json").read_bytes()

    def status(self) -> list[dict[str, Any]]:
        """One row a role: version, expiry, key ids, and whether its key is here."""
        root = self.root()
        rows = []
        for role in ROLES:
            signed = self.open(role).signed
            ids = list(root.roles[role].keyids)
            rows.append(
                {
                    "role": role,
                    "version": signed.version,
                    "expires": signed.expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
                    "expired": signed.is_expired(self._now()),
                    "keys": ids,
                    "key_here": all(self.keys.find(role, root.keys[key]) is not None for key in ids),
                }
            )
        return rows

    def _complete(self) -> None:
        """Brings targets, snapshot and timestamp to what the newest root and targets say; also after a crash."""
        root = self.root()
        targets = self.open("targets")
        if targets.signed.version == 0 or not _signed_by(root, "targets", targets):
            with self.edit_targets():
                pass
        try:
            self.do_snapshot(force=self._old("snapshot"))
            self.do_timestamp(force=self._old("timestamp"))
        except (RepositoryError, ValueError) as error:
            raise EdgeError(f"{self.metadata}: cannot be brought up to date: {reason(error)}") from None
        for role in ("targets", "snapshot"):
            for version in self._versions(role)[:-_KEPT]:
                (self.metadata / f"{version}.{role}.json").unlink(missing_ok=True)

    def _old(self, role: str) -> bool:
        signed = self.open(role).signed
        return bool(signed.version == 0 or signed.expires - self._now() < LIFE[role] / 2)

    def _versions(self, role: str) -> list[int]:
        """Versions of `role` that are there, in order."""
        found = []
        for name in os.listdir(self.metadata):
            version, _, rest = name.partition(".")
            if rest == f"{role}.json" and version.isascii() and version.isdigit():
                found.append(int(version))
        return sorted(found)

    def _info(self, role: str) -> MetaFile:
        version = self._versions(role)[-1]
        return MetaFile.from_data(version, (self.metadata / f"{version}.{role}.json").read_bytes(), ["sha256"])


def _signed_by(root: Root, role: str, metadata: Metadata[Any]) -> bool:
    try:
        root.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except UnsignedMetadataError:
        return False
    return True


def _expiry(now: datetime, role: str) -> datetime:
    return (now + LIFE[role]).replace(microsecond=0)


def _write(path: Path, metadata: Metadata[Any]) -> None:
    with whole_file(path) as file:
        file.write(metadata.to_bytes(_SERIALIZER))
