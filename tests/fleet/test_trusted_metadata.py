"""What a device believes of the metadata that it is given, beside python-tuf's own client."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tuf")

from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from edge.fleet.device.trusted_metadata import TrustedModels, UntrustedUpdate, canonical_json, parse_json
from edge.fleet.server.updates.repository import LIFE, ModelRepository
from edge.fleet.variant import Blob, Variant
from edge.runtime.errors import BadFile, BadInput, EdgeError
from tests.fleet.tuf_oracle import Pair, Served

NOW = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)
KWS = Variant("kws", "1.0", "bundle", 1, "bundle", Blob("a" * 64, 1000), accuracy=0.9, gate="accuracy>=0.9")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def repository(tmp_path: Path, clock: Clock) -> ModelRepository:
    made = ModelRepository.create(tmp_path / "tuf", now=clock)
    made.publish([KWS])
    return made


@pytest.fixture
def pair(tmp_path: Path, repository: ModelRepository) -> Pair:
    return Pair(tmp_path / "device", repository.trusted_root(), NOW)


def test_a_device_reads_what_was_published(repository: ModelRepository, pair: Pair) -> None:
    assert pair.refresh(Served.of(repository)) is None

    def known() -> dict[str, Variant]:
        return TrustedModels(pair.ours, Served.of(repository), now=lambda: NOW.timestamp()).refresh()

    assert known() == {"kws/1.0/bundle.edge": KWS}
    newer = replace(KWS, version="1.1", sequence=2, board="lm3s", reference=Blob("c" * 64, 3))
    repository.publish([newer])
    assert pair.refresh(Served.of(repository)) is None
    assert known()[newer.path] == newer


def test_what_is_published_cannot_be_changed(repository: ModelRepository) -> None:
    with pytest.raises(BadInput, match="is published already, with other contents: give it another --version"):
        repository.publish([replace(KWS, blob=Blob("b" * 64, 1000))])


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_a_rotated_key_is_followed_and_the_old_one_is_worth_nothing(
    repository: ModelRepository, pair: Pair, role: str
) -> None:
    old = Served.of(repository)
    assert pair.refresh(old) is None
    for _ in range(3):
        repository.rotate(role)
    repository.publish([replace(KWS, version="1.1", sequence=2)])
    new = Served.of(repository)
    assert pair.refresh(new) is None
    # What the old keys signed, with the new roots.
    stale = Served({**old, **{name: data for name, data in new.items() if "root" in name}})
    refused = pair.refresh(stale)
    assert refused is not None


def test_keys_of_root_and_targets_may_be_kept_elsewhere(
    tmp_path: Path, repository: ModelRepository, pair: Pair, clock: Clock
) -> None:
    assert sorted(path.name for path in repository.keys.folder.iterdir()) == [
        "root",
        "snapshot",
        "targets",
        "timestamp",
    ]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in repository.keys.folder.glob("*/*.pem"))
    medium = tmp_path / "medium"
    medium.mkdir()
    for role in ("root", "targets"):
        (repository.keys.folder / role).rename(medium / role)
    new = replace(KWS, version="1.1", sequence=2)
    with pytest.raises(EdgeError, match="the targets key .* is not here: attach the medium"):
        repository.publish([new])
    with pytest.raises(EdgeError, match="the root key .* is not here"):
        repository.rotate("timestamp")
    # The server goes on signing what lives for a day.
    clock.now = pair.now = NOW + timedelta(days=20)
    assert pair.refresh(Served.of(repository)) is not None
    assert repository.renew() == {}
    assert pair.refresh(Served.of(repository)) is None
    ModelRepository(repository.folder, keys=[medium], now=clock).publish([new])
    assert pair.refresh(Served.of(repository)) is None
    clock.now = NOW + timedelta(days=230)
    assert repository.renew().keys() == {"root", "targets"}


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_expired_metadata_are_refused(repository: ModelRepository, pair: Pair, role: str) -> None:
    served = Served.of(repository)
    for name in ("root", "targets", "snapshot", "timestamp"):
        life = LIFE[role] if name == role else timedelta(days=3000)
        _signed_again(repository, served, name, lambda signed, life=life: signed.update(expires=_text(NOW + life)))
    pair.now = NOW + LIFE[role] - timedelta(seconds=1)
    assert pair.refresh(served) is None
    pair.now += timedelta(seconds=1)
    told = pair.refresh(served)
    assert told is not None and "expired on" in told


def test_a_frozen_server_is_noticed_after_a_day(repository: ModelRepository, pair: Pair, clock: Clock) -> None:
    frozen = Served.of(repository)
    assert pair.refresh(frozen) is None
    clock.now = pair.now = NOW + timedelta(days=1, seconds=1)
    repository.publish([replace(KWS, version="1.1", sequence=2)])
    told = pair.refresh(frozen)
    assert told is not None and "somebody withholds newer metadata" in told


def test_older_metadata_are_refused(repository: ModelRepository, pair: Pair) -> None:
    old = Served.of(repository)
    repository.publish([replace(KWS, version="1.1", sequence=2)])
    new = Served.of(repository)
    assert pair.refresh(new) is None
    told = pair.refresh(old)
    assert told is not None and "this device has seen" in told
    assert pair.refresh(new) is None


def test_metadata_of_different_times_do_not_mix(tmp_path: Path, repository: ModelRepository, pair: Pair) -> None:
    old = Served.of(repository)
    repository.publish([replace(KWS, version="1.1", sequence=2)])
    new = Served.of(repository)
    assert pair.refresh(old) is None
    for role in ("snapshot", "targets"):
        mixed = Served(new)
        mixed[f"3.{role}.json"] = old[f"2.{role}.json"]
        told = pair.copy(tmp_path / role).refresh(mixed)
        assert told is not None and "is not the file that is signed for" in told


def test_a_thief_of_timestamp_and_snapshot_keys_cannot_bring_back_old_targets(
    repository: ModelRepository, pair: Pair
) -> None:
    old = Served.of(repository)
    repository.publish([replace(KWS, version="1.1", sequence=2)])
    new = Served.of(repository)
    assert pair.refresh(new) is None
    served = Served({**old, **new})
    meta = json.loads(old["2.snapshot.json"])["signed"]["meta"]
    served["4.snapshot.json"] = _resigned(
        repository, "snapshot", new["3.snapshot.json"], lambda signed: signed.update(version=4, meta=meta)
    )
    served["timestamp.json"] = _resigned(
        repository,
        "timestamp",
        new["timestamp.json"],
        lambda signed: signed.update(version=9, meta={"snapshot.json": {"version": 4}}),
    )
    told = pair.refresh(served)
    assert told is not None and "names targets.json 2, this device has seen 3" in told


def test_rotation_frees_devices_from_versions_that_a_thief_raised(repository: ModelRepository, pair: Pair) -> None:
    served = Served.of(repository)
    _signed_again(repository, served, "timestamp", lambda signed: signed.update(version=10**6))
    assert pair.refresh(served) is None
    assert pair.refresh(Served.of(repository)) is not None
    repository.rotate("timestamp")
    assert pair.refresh(Served.of(repository)) is None


def test_other_keys_sign_nothing(tmp_path: Path, repository: ModelRepository, pair: Pair, clock: Clock) -> None:
    genuine = Served.of(repository)
    forger = ModelRepository.create(tmp_path / "forger", now=clock)
    forger.publish([KWS])
    forged = Served.of(forger)
    assert pair.refresh(Served({**forged, "1.root.json": genuine["1.root.json"]})) is not None
    forger.rotate("targets")
    told = pair.refresh(Served.of(forger))  # with a 2.root.json of its own
    assert told is not None and "is signed with 0 of the root keys that this device trusts" in told
    for name in ("timestamp.json", "2.snapshot.json", "2.targets.json"):
        told = pair.copy(tmp_path / name).refresh(Served({**genuine, name: forged[name]}))
        assert told is not None


def test_a_threshold_counts_keys_not_signatures(tmp_path: Path, repository: ModelRepository) -> None:
    """Two of three root keys must sign; one key twice, or under two ids, is one."""
    signers = [CryptoSigner.generate_ed25519() for _ in range(3)]
    alias = CryptoSigner(signers[0]._private_key, copy.copy(signers[0].public_key))
    alias.public_key.keyid = "ab" * 32
    served = Served.of(repository)
    root = Metadata[Root].from_bytes(served["1.root.json"])
    for key in list(root.signed.roles["root"].keyids):
        root.signed.revoke_key(key, "root")
    for signer in (*signers, alias):
        root.signed.add_key(signer.public_key, "root")
    root.signed.roles["root"].threshold = 2

    def device(by: list[CryptoSigner]) -> Pair:
        root.signatures.clear()
        for signer in by:
            root.sign(signer, append=True)
        return Pair(tmp_path / str(random.random()), root.to_bytes(), NOW)

    assert device(signers[1:]).refresh(served) is None
    for too_few in ([signers[0]], []):
        with pytest.raises(UntrustedUpdate, match="2 must have signed"):
            device(too_few)
    with pytest.raises(UntrustedUpdate, match="is signed with 1 of the root keys"):
        device([signers[0], alias])
    device(signers[:2])
    twice = json.loads(root.to_bytes())
    twice["signatures"][1] = twice["signatures"][0]
    with pytest.raises(UntrustedUpdate, match="is signed twice with one key"):
        TrustedModels.provision(tmp_path / "twice", json.dumps(twice).encode())


def test_keys_of_p256_are_known_too(tmp_path: Path, repository: ModelRepository) -> None:
    signer = CryptoSigner.generate_ecdsa()
    served = Served.of(repository)
    root = Metadata[Root].from_bytes(served["1.root.json"])
    for key in list(root.signed.roles["timestamp"].keyids):
        root.signed.revoke_key(key, "timestamp")
    root.signed.add_key(signer.public_key, "timestamp")
    root.sign(_signer(repository, "root"))
    timestamp = Metadata.from_bytes(served["timestamp.json"])
    timestamp.sign(signer)
    served["timestamp.json"] = timestamp.to_bytes()
    assert Pair(tmp_path / "device", root.to_bytes(), NOW).refresh(served) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"signed":' * 17 + b"1" + b"}" * 17,
        b'{"a":' * 30_000,
        b"x" * 20_000,
        b'{"signed":{},"signatures":[]}',
        b'{"signed":{"_type":"timestamp","spec_version":"2.0.0","version":1},"signatures":[]}',
        b'{"signed":{"a":' + b"9" * 10_000 + b'},"signatures":[]}',
    ],
    ids=lambda data: repr(data[:20]),
)
def test_rubbish_is_refused(repository: ModelRepository, pair: Pair, data: bytes) -> None:
    served = Served.of(repository)
    served["timestamp.json"] = data
    told = pair.refresh(served)
    assert told is not None and told.startswith("timestamp.json") and "\n" not in told


def test_what_only_we_refuse(repository: ModelRepository, pair: Pair) -> None:
    """A key twice is read in two ways by two readers; and a fraction has no canonical form."""
    served = Served.of(repository)
    served["timestamp.json"] = served["timestamp.json"].replace(b'{"signatures"', b'{"signatures":[],"signatures"', 1)
    with pytest.raises(UntrustedUpdate, match="a key occurs twice"):
        TrustedModels(pair.ours, served, now=lambda: NOW.timestamp()).refresh()
    with pytest.raises(BadFile, match=r"1.5 is no integer"):
        parse_json(b"[1.5]", "x", 10)


def test_a_device_is_told_of_no_root_at_all(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="there is no trusted root: enroll this device again"):
        TrustedModels(tmp_path, Served())


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_change_of_a_byte_is_judged_as_by_python_tuf(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    repository = ModelRepository.create(_prepared(tmp_path_factory), now=lambda: NOW)
    served = Served.of(repository)
    pair = Pair(folder, served["1.root.json"], NOW)
    if data.draw(st.booleans()):
        assert pair.refresh(served) is None
    name = data.draw(st.sampled_from(sorted(set(served) - {"1.root.json"})))
    content = bytearray(served[name])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
    changed = bytes(content)
    told = pair.refresh(Served({**served, name: changed}))
    if told is None:
        # Only where the change means nothing: the same byte, another way to write it, or a file kept before.
        assert changed == served[name] or name in ("timestamp.json",) or (pair.ours / "targets.json").exists()


_KEPT: dict[str, Path] = {}


def _prepared(factory: pytest.TempPathFactory) -> Path:
    if "folder" not in _KEPT:
        folder = factory.mktemp("repository")
        made = ModelRepository.create(folder, now=lambda: NOW)
        made.publish([KWS])
        made.rotate("timestamp")
        _KEPT["folder"] = folder
    return _KEPT["folder"]


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(_VALUES)
def test_canonical_json_is_that_of_securesystemslib(value: object) -> None:
    expected = encode_canonical(value)  # type: ignore[arg-type]
    assert expected is not None
    assert canonical_json(value) == expected.encode("utf-8")


def _text(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _signer(repository: ModelRepository, role: str) -> CryptoSigner:
    root = repository.root()
    (key,) = root.roles[role].keyids
    return repository.keys.need(role, root.keys[key])


def _resigned(repository: ModelRepository, role: str, data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    document = json.loads(data)
    change(document["signed"])
    made = Metadata.from_dict(document)
    made.sign(_signer(repository, role))
    return made.to_bytes()


def _signed_again(
    repository: ModelRepository, served: Served, role: str, change: Callable[[dict[str, Any]], None]
) -> None:
    """Changes the newest metadata of `role` in what is served; what names it is signed again without its hash."""
    name = max(name for name in served if name.endswith(f"{role}.json"))
    if role == "root":
        served["2.root.json"] = _resigned(
            repository, "root", served[name], lambda signed: (signed.update(version=2), change(signed))[0]
        )
        return
    served[name] = _resigned(repository, role, served[name], change)
    above = {"targets": "snapshot", "snapshot": "timestamp"}.get(role)
    if above is not None:

        def forget(signed: dict[str, Any]) -> None:
            for entry in signed["meta"].values():
                entry.pop("hashes", None)
                entry.pop("length", None)

        _signed_again(repository, served, above, forget)
