"""Which models a device may trust: TUF's client workflow, on `cryptography` alone.

python-tuf is not in the base install, so this is the specification again (TUF 1.0.33, section 5), for the four
top-level roles and consistent snapshots. Its oracle in the tests is python-tuf's own client. Where the two differ, this
one is the stricter: JSON with a key twice or of uncommon depth is refused, and two ids of one public key count once.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from edge.fleet.variant import Variant
from edge.runtime import strict_json
from edge.runtime.errors import BadFile, EdgeError
from edge.runtime.fields import Fields, integer, kind_of, shown, text
from edge.runtime.whole_file import whole_file

ROOT_BYTES, TIMESTAMP_BYTES, SNAPSHOT_BYTES, TARGETS_BYTES = 1 << 16, 1 << 14, 1 << 16, 4 << 20
"""How much of each file is read at most."""

MAX_ROOT_ROTATIONS = 256
MAX_LEVELS = 16
MAX_KEYS = 64

_HEX = re.compile(r"[0-9a-f]{2,8192}")
_KEY_ID = re.compile(r"[0-9a-f]{8,128}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_EXPIRES = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_SPEC = re.compile(r"1(\.[0-9]{1,4}){1,2}")


class UntrustedUpdate(EdgeError):
    """Metadata or a file that must not be trusted: the message says what it is, and which check it failed."""


class MetadataSource(Protocol):
    """Where metadata come from; nothing that it gives is believed."""

    def metadata(self, name: str, most: int) -> bytes | None:
        """The file `name`, as "3.root.json"; None if there is none. More than `most` bytes need not be read."""


class TrustedModels:
    """The models that the fleet's operator has signed, as far as this device knows.

    A device is given one root when it is enrolled. From there:

    1. **root**: each next version is signed by a threshold of the last one's keys and of its own. Only the last is
       asked whether it has expired.
    2. **timestamp**: signed by the root's timestamp key, its version and that of the snapshot no lower than before, not
       expired.
    3. **snapshot**: of the version, length and hash that the timestamp says; names no role at a lower version than the
       last snapshot did, nor leaves one out; not expired.
    4. **targets**: of the version, length and hash that the snapshot says; not expired.

    What passed is kept in `folder`, file by file as it passes, and protects against older metadata from then on. It is
    verified again at each start, with the keys of the newest root, so that keys that are rotated free a device from
    versions that a thief of the old ones raised (section 5.3.11).

    Args:
        folder: of this device's own, with `root.json`, the trusted root.
        source: where newer metadata come from.
        now: the clock, in seconds since 1970.

    Raises:
        UntrustedUpdate: the root in the folder is damaged.
        BadFile: there is none.
    """

    def __init__(self, folder: Path, source: MetadataSource, *, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._source = source
        self._now = now
        try:
            data = (folder / "root.json").read_bytes()
        except OSError:
            raise BadFile(f"{folder / 'root.json'}: there is no trusted root: enroll this device again") from None
        root = _Signed(data, "root", "root.json (kept)", ROOT_BYTES)
        root.verify(_keys_of(root.signed, "root"))
        self._root = root

    @staticmethod
    def provision(folder: Path, root: bytes) -> None:
        """Puts the root that enrollment gave into `folder`; one that is there already stays, unless it is damaged.

        Raises:
            UntrustedUpdate: the root is not signed by itself.
        """
        made = _Signed(root, "root", "root.json", ROOT_BYTES)
        made.verify(_keys_of(made.signed, "root"))
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (folder / "root.json").exists():
            _keep(folder / "root.json", root)

    @property
    def root_version(self) -> int:
        """Version of the newest root that is trusted."""
        return self._root.version

    def refresh(self) -> dict[str, Variant]:
        """Brings the device's knowledge up to date.

        Returns:
            What is published, by target path. Targets that this version of edge cannot read are left out.

        Raises:
            UntrustedUpdate: a check failed; the message names the file and the check. What was trusted stays.
            EdgeError: what `source` raises.
        """
        self._update_root()
        timestamp = self._update_timestamp()
        snapshot = self._update_snapshot(timestamp)
        targets = self._update_targets(snapshot)
        found = {}
        for path, target in targets.items():
            try:
                found[path] = Variant.from_target(path, target)
            except BadFile:
                continue
        return found

    def _update_root(self) -> None:
        for _ in range(MAX_ROOT_ROTATIONS):
            name = f"{self._root.version + 1}.root.json"
            data = self._source.metadata(name, ROOT_BYTES)
            if data is None:
                break
            new = _Signed(data, "root", name, ROOT_BYTES)
            new.verify(_keys_of(self._root.signed, "root"))
            new.verify(_keys_of(new.signed, "root"))
            if new.version != self._root.version + 1:
                raise UntrustedUpdate(f"{name}: is version {new.version}: roots follow one another")
            _keep(self._folder / "root.json", data)
            self._root = new
        self._root.check_expiry(self._now(), "the operator has to sign a new root")

    def _update_timestamp(self) -> _Signed:
        keys = _keys_of(self._root.signed, "timestamp")
        old = self._kept("timestamp", TIMESTAMP_BYTES, keys)
        data = self._source.metadata("timestamp.json", TIMESTAMP_BYTES)
        if data is None:
            raise UntrustedUpdate("timestamp.json: the server has none")
        new = _Signed(data, "timestamp", "timestamp.json", TIMESTAMP_BYTES)
        new.verify(keys)
        listed = _listed(new, "snapshot.json")
        if old is not None:
            before = _listed(old, "snapshot.json")
            if new.version < old.version:
                raise UntrustedUpdate(f"timestamp.json: is version {new.version}, this device has seen {old.version}")
            if listed["version"] < before["version"]:
                raise UntrustedUpdate(
                    f"timestamp.json: names snapshot {listed['version']}, this device has seen {before['version']}"
                )
            if new.version == old.version:
                new = old
        new.check_expiry(self._now(), "somebody withholds newer metadata, or this device's clock is wrong")
        if new is not old:
            _keep(self._folder / "timestamp.json", data)
        return new

    def _update_snapshot(self, timestamp: _Signed) -> _Signed:
        keys = _keys_of(self._root.signed, "snapshot")
        listed = _listed(timestamp, "snapshot.json")
        old = self._kept("snapshot", SNAPSHOT_BYTES, keys)
        if old is not None and old.version == listed["version"] and _matches(old.data, listed):
            new = old
        else:
            name = f"{listed['version']}.snapshot.json"
            new = self._fetched("snapshot", name, SNAPSHOT_BYTES, listed)
            new.verify(keys)
            if new.version != listed["version"]:
                raise UntrustedUpdate(f"{name}: is version {new.version}")
            for role in _meta(old) if old is not None else ():
                before = _listed(old, role) if old is not None else {}
                if role not in _meta(new):
                    raise UntrustedUpdate(f"{name}: leaves out {role[:60]}, which the last snapshot named")
                if _listed(new, role)["version"] < before["version"]:
                    raise UntrustedUpdate(
                        f"{name}: names {role[:60]} {_listed(new, role)['version']}, this device has seen "
                        f"{before['version']}"
                    )
        new.check_expiry(self._now(), "somebody withholds newer metadata, or this device's clock is wrong")
        if new is not old:
            _keep(self._folder / "snapshot.json", new.data)
        return new

    def _update_targets(self, snapshot: _Signed) -> Mapping[str, Any]:
        keys = _keys_of(self._root.signed, "targets")
        listed = _listed(snapshot, "targets.json")
        new = self._kept("targets", TARGETS_BYTES, keys)
        old = new
        if new is None or new.version != listed["version"] or not _matches(new.data, listed):
            name = f"{listed['version']}.targets.json"
            new = self._fetched("targets", name, TARGETS_BYTES, listed)
            new.verify(keys)
            if new.version != listed["version"]:
                raise UntrustedUpdate(f"{name}: is version {new.version}")
        new.check_expiry(self._now(), "the operator has to sign the targets again")
        targets = new.signed.get("targets")
        if not isinstance(targets, dict):
            raise UntrustedUpdate(f"{new.name}: targets: expected an object, found {kind_of(targets)}")
        if new is not old:
            _keep(self._folder / "targets.json", new.data)
        return targets

    def _fetched(self, role: str, name: str, most: int, listed: Mapping[str, Any]) -> _Signed:
        data = self._source.metadata(name, min(most, listed["length"] or most))
        if data is None:
            raise UntrustedUpdate(f"{name}: the server has none")
        if not _matches(data, listed):
            raise UntrustedUpdate(f"{name}: is not the file that is signed for: length or hash differ")
        return _Signed(data, role, name, most)

    def _kept(self, role: str, most: int, keys: _Keys) -> _Signed | None:
        """What was kept of `role`, if it is whole and signed with the keys that the root names now."""
        try:
            made = _Signed((self._folder / f"{role}.json").read_bytes(), role, f"{role}.json (kept)", most)
            made.verify(keys)
        except (OSError, UntrustedUpdate):
            return None
        return made


class _Keys:
    """The keys of a role, and how many of them must sign."""

    def __init__(self, role: str, threshold: int, keys: Mapping[str, tuple[str, str]]) -> None:
        self.role = role
        self.threshold = threshold
        self.keys = keys


class _Signed:
    """One metadata file, parsed: well-formed, of the right role, and not yet trusted."""

    def __init__(self, data: bytes, role: str, name: str, most: int) -> None:
        self.data = data
        self.name = name
        try:
            record = Fields(parse_json(data, name, most), name)
            signed = record.raw("signed")
            fields = Fields(signed, f"{name}: signed")
            kind = fields.text("_type", 20)
            if kind != role:
                raise BadFile(f"{name}: is {shown(kind)}, not {role}")
            fields.text("spec_version", 20, _SPEC)
            self.version = fields.integer("version", 1, 1 << 53)
            self.expires = _seconds(fields.text("expires", 20, _EXPIRES), name)
            self.signatures = record.items("signatures", MAX_KEYS, _read_signature)
            self.signed: dict[str, Any] = signed
            self._bytes = canonical_json(signed)
        except BadFile as error:
            raise UntrustedUpdate(str(error)) from None

    def verify(self, keys: _Keys) -> None:
        """Checks that a threshold of distinct keys signed it.

        Raises:
            UntrustedUpdate: fewer did.
        """
        good: set[str] = set()
        seen: set[str] = set()
        for key_id, signature in self.signatures:
            if key_id in seen:
                raise UntrustedUpdate(f"{self.name}: is signed twice with one key")
            seen.add(key_id)
            key = keys.keys.get(key_id)
            if key is not None and _verifies(*key, signature, self._bytes):
                good.add(key[1])
        if len(good) < keys.threshold:
            raise UntrustedUpdate(
                f"{self.name}: is signed with {len(good)} of the {keys.role} keys that this device trusts; "
                f"{keys.threshold} must have signed"
            )

    def check_expiry(self, now: float, advice: str) -> None:
        if now >= self.expires:
            when = datetime.fromtimestamp(self.expires, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
            raise UntrustedUpdate(f"{self.name}: expired on {when}: {advice}")


def parse_json(data: bytes, name: str, most: int) -> object:
    """JSON of at most `most` bytes and `MAX_LEVELS` levels; no fraction, NaN or key twice.

    Raises:
        BadFile: saying what is wrong.
    """
    return strict_json.parse_json(data, name, most, MAX_LEVELS, fractions=False)


def canonical_json(value: object) -> bytes:
    """The bytes that a signature is made over: OLPC canonical JSON, as securesystemslib writes it.

    Keys in the order of their code points, no white space, and of all characters only the quote and the backslash are
    escaped.

    Raises:
        BadFile: a value that has no such form.
    """
    parts: list[str] = []
    _canonical(value, parts)
    try:
        return "".join(parts).encode("utf-8")
    except UnicodeEncodeError:
        raise BadFile("holds half of a surrogate pair") from None


def _canonical(value: object, parts: list[str]) -> None:
    if isinstance(value, str):
        parts.append(_quoted(value))
    elif value is None or isinstance(value, bool):
        parts.append({None: "null", True: "true", False: "false"}[value])
    elif isinstance(value, int):
        parts.append(str(value))
    elif isinstance(value, list):
        parts.append("[")
        for index, item in enumerate(value):
            parts.append("," if index else "")
            _canonical(item, parts)
        parts.append("]")
    elif isinstance(value, dict):
        parts.append("{")
        for index, key in enumerate(sorted(value)):
            parts.append("," if index else "")
            parts.append(_quoted(key) + ":")
            _canonical(value[key], parts)
        parts.append("}")
    else:
        raise BadFile(f"canonical JSON has no {kind_of(value)}")


def _quoted(string: str) -> str:
    return '"' + string.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _seconds(string: str, name: str) -> float:
    try:
        return datetime.strptime(string, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()
    except (ValueError, OverflowError):
        raise BadFile(f"{name}: expires: {shown(string)} is no time") from None


def _read_signature(value: object, where: str) -> tuple[str, bytes]:
    if not isinstance(value, dict):
        raise BadFile(f"{where}: expected an object, found {kind_of(value)}")
    key_id = text(value.get("keyid"), f"{where}.keyid", 128, _KEY_ID)
    signature = text(value.get("sig"), f"{where}.sig", 8192)
    # An empty signature marks a key that is yet to sign.
    return key_id, bytes.fromhex(signature) if _HEX.fullmatch(signature) and len(signature) % 2 == 0 else b""


def _keys_of(root: Mapping[str, Any], role: str) -> _Keys:
    """The keys and the threshold of `role`, as a root says.

    Raises:
        UntrustedUpdate: the root is malformed.
    """
    where = f"root.json: {role}"
    try:
        roles, keys = root.get("roles"), root.get("keys")
        if not isinstance(roles, dict) or not isinstance(keys, dict) or len(keys) > MAX_KEYS:
            raise BadFile(f"{where}: expected roles and at most {MAX_KEYS} keys")
        if root.get("consistent_snapshot") is not True:
            raise BadFile(f"{where}: has no consistent snapshots")
        record = Fields(roles.get(role), where)
        threshold = record.integer("threshold", 1, MAX_KEYS)
        ids = record.items("keyids", MAX_KEYS, lambda value, at: text(value, at, 128, _KEY_ID))
        if len(set(ids)) != len(ids):
            raise BadFile(f"{where}: names a key twice")
        found = {}
        for key_id in ids:
            key = keys.get(key_id)
            value = key.get("keyval") if isinstance(key, dict) else None
            public = value.get("public") if isinstance(value, dict) else None
            if not isinstance(key, dict) or not isinstance(public, str) or len(public) > 2000:
                raise BadFile(f"{where}: key {key_id[:12]} is missing or malformed")
            found[key_id] = (str(key.get("scheme")), public)
    except BadFile as error:
        raise UntrustedUpdate(str(error)) from None
    return _Keys(role, threshold, found)


def _verifies(scheme: str, public: str, signature: bytes, data: bytes) -> bool:
    """Whether `signature` over `data` is good: Ed25519, or ECDSA over P-256 with SHA-256. No other is known here."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        if scheme == "ed25519":
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(signature, data)
            return True
        if scheme == "ecdsa-sha2-nistp256":
            key = load_pem_public_key(public.encode())
            if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
                key.verify(signature, data, ECDSA(SHA256()))
                return True
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        pass
    return False


def _meta(signed: _Signed) -> Mapping[str, Any]:
    meta = signed.signed.get("meta")
    if not isinstance(meta, dict):
        raise UntrustedUpdate(f"{signed.name}: meta: expected an object, found {kind_of(meta)}")
    return meta


def _listed(signed: _Signed, name: str) -> dict[str, Any]:
    """Version, and length and hash (None if it names none) of a file that `signed` lists."""
    where = f"{signed.name}: meta[{name[:60]!r}]"
    entry = _meta(signed).get(name)
    try:
        if not isinstance(entry, dict):
            raise BadFile(f"{where}: expected an object, found {kind_of(entry)}")
        length, hashes = entry.get("length"), entry.get("hashes")
        if hashes is not None and (not isinstance(hashes, dict) or "sha256" not in hashes):
            raise BadFile(f"{where}: names no SHA-256")
        return {
            "version": integer(entry.get("version"), f"{where}.version", 1, 1 << 53),
            "length": None if length is None else integer(length, f"{where}.length", 1, TARGETS_BYTES),
            "sha256": None if hashes is None else text(hashes["sha256"], f"{where}.sha256", 64, _SHA256),
        }
    except BadFile as error:
        raise UntrustedUpdate(str(error)) from None


def _matches(data: bytes, listed: Mapping[str, Any]) -> bool:
    if listed["length"] is not None and len(data) != listed["length"]:
        return False
    return listed["sha256"] is None or hashlib.sha256(data).hexdigest() == listed["sha256"]


def _keep(path: Path, data: bytes) -> None:
    with whole_file(path) as file:
        file.write(data)
