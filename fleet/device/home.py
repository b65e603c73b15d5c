"""The folder in which a device keeps what makes it a device of a fleet.

device.json    its id, and where its broker is
identity.pem   its key and certificate, mode 0600; one file, so that both change at once
root.pem       the fleet's root: the only authority that it believes
next.key       the key of a certificate that was asked for and has not come yet, mode 0600
labels.json    the labels that the device gives itself: {"building": "7"}
trust/         what the fleet signs its models with: see `edge.fleet.device.trusted_metadata`
models/        see `edge.fleet.device.models`
inputs/        what models saw, kept to try new ones on: see `edge.fleet.device.inputs`
outbox.sqlite  messages that were not acknowledged
shadow.json    what the operator wants the device to be: see `edge.fleet.device.shadow`
joining/       the same for a fleet that it is about to join anew; what is above counts until that is complete
agent.lock     held by the agent while it runs
connection.json  when the agent last had its broker, or why not
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import ssl
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from edge.fleet.addresses import MOST as MOST_ADDRESSES
from edge.fleet.addresses import Address, read_address
from edge.fleet.device.trusted_metadata import TrustedModels
from edge.fleet.errors import FleetError
from edge.fleet.identity import DEVICE_ID, key_fingerprint, renewal_statement
from edge.fleet.lock import hold, holder
from edge.fleet.messages import CertificateAnswer
from edge.runtime.errors import BadFile, EdgeError
from edge.runtime.fields import Fields, text
from edge.runtime.whole_file import whole_file


def default_home() -> Path:
    """$EDGE_DEVICE; /var/lib/edge for root, as the systemd unit has it; ~/.local/share/edge/device for others."""
    if named := os.environ.get("EDGE_DEVICE"):
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/edge")
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "edge" / "device"


@dataclass(frozen=True)
class Place:
    """Who the device is, and where its broker is.

    Attributes:
        host, port: of the broker.
        others: "host:port" of those that are as good.
    """

    id: str
    host: str
    port: int
    others: tuple[str, ...] = ()

    @property
    def brokers(self) -> tuple[Address, ...]:
        """All brokers that the device may connect to."""
        return (Address(self.host, self.port), *(Address.parse(other, self.port) for other in self.others))


class Home:
    """A device's folder, mode 0700.

    Raises:
        FleetError: it cannot be made.
    """

    def __init__(self, folder: Path, *, make: bool = True) -> None:
        self.folder = folder
        self.identity = folder / "identity.pem"
        self.root = folder / "root.pem"
        self.outbox = folder / "outbox.sqlite"
        self._next_key = folder / "next.key"
        self._place = folder / "device.json"
        self._labels = folder / "labels.json"
        self._connection = folder / "connection.json"
        if not make:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise FleetError(f"{folder}: cannot be made ({error.strerror}): name another with --home") from error

    def place(self) -> Place | None:
        """Who the device is; None until it is enrolled.

        Raises:
            FleetError: the file is damaged.
        """
        return self._read_place(self._place)

    def _read_place(self, path: Path) -> Place | None:
        try:
            fields = Fields(json.loads(path.read_text()), str(path))
            inner = Fields({"others": fields.raw("others", [])}, str(path))  # older homes have none
            return Place(
                fields.text("id", 64, DEVICE_ID),
                fields.text("host", 255),
                fields.integer("port", 1, 65535),
                inner.items("others", MOST_ADDRESSES, read_address),
            )
        except FileNotFoundError:
            return None
        except (ValueError, BadFile) as error:
            raise FleetError(f"{path}: damaged ({error}): enroll the device again (--again)") from error

    def next_request(self) -> tuple[str, bytes, str]:
        """A certificate request (PEM, and DER) and its key's fingerprint; the key is made here and now, or was before.

        It is on the disk before the request leaves, so that the answer finds it whatever happens in between.
        """
        key = self._load_next()
        if key is None:
            key = ec.generate_private_key(ec.SECP256R1())
            self._write_private(self._next_key, _key_bytes(key))
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge device")])
        csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
        return (
            csr.public_bytes(Encoding.PEM).decode(),
            csr.public_bytes(Encoding.DER),
            key_fingerprint(key.public_key()),
        )

    def vouch(self, request: bytes) -> str:
        """The signature of this device's present key under a certificate request (DER), hexadecimal.

        Raises:
            FleetError: the key cannot be read.
        """
        try:
            key = load_pem_private_key(self.identity.read_bytes(), None)
        except (OSError, ValueError) as error:
            raise FleetError(f"{self.identity}: not readable ({error}): enroll the device again") from error
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key.sign(renewal_statement(request), ec.ECDSA(hashes.SHA256())).hex()

    def waits_for(self) -> str | None:
        """The fingerprint of the key for which a certificate was asked, if one was."""
        key = self._load_next()
        return None if key is None else key_fingerprint(key.public_key())

    def forget_request(self) -> None:
        self._next_key.unlink(missing_ok=True)

    @property
    def is_enrolled(self) -> bool:
        """Whether the device has a place in a fleet, even one whose file is damaged."""
        return self._place.exists()

    def joining(self) -> Home:
        """Where another enrollment goes on while this one holds; `adopt` puts it in place once it is complete."""
        return Home(self.folder / "joining")

    @property
    def has_joined(self) -> bool:
        """Whether another enrollment is complete that `adopt` has not put in place yet."""
        try:
            return self.joining_place() is not None
        except FleetError:  # a disk that lost something: what the device is now still holds
            return False

    def joining_place(self) -> Place | None:
        """Who the device will be once `adopt` is called; None if nothing waits for that."""
        return self._read_place(self.folder / "joining" / "device.json")

    def joins_same_fleet(self) -> bool:
        """Whether that is in the fleet to which the device belongs already."""
        new = self.folder / "joining" / "root.pem"
        # Moved already, if a crash interrupted `adopt`.
        return not new.exists() or (self.root.exists() and self.root.read_bytes() == new.read_bytes())

    def adopt(self) -> None:
        """Puts the enrollment in `joining` in place of the present one, if it is complete.

        What the present fleet has not acknowledged, its settings and what its models are trusted by are kept if it is
        the same fleet, and dropped if it is another. The agent must not run, or be the caller. What a crash interrupts
        here, the next call ends: device.json moves last.
        """
        new = self.folder / "joining"
        if not self.has_joined:
            return
        root = new / "root.pem"
        if root.exists():  # else a crash came after this
            if not self.joins_same_fleet():
                dropped = (*self.folder.glob("outbox.sqlite*"), *(self.folder / "trust").glob("*.json"))
                for path in (*dropped, self.folder / "shadow.json"):
                    path.unlink(missing_ok=True)
            if (new / "trust" / "root.json").exists():
                (self.folder / "trust").mkdir(exist_ok=True, mode=0o700)
                (new / "trust" / "root.json").replace(self.folder / "trust" / "root.json")
            self._next_key.unlink(missing_ok=True)
            root.replace(self.root)
        if (new / "identity.pem").exists():
            (new / "identity.pem").replace(self.identity)
        (new / "device.json").replace(self._place)
        shutil.rmtree(new, ignore_errors=True)

    def only_agent(self) -> contextlib.AbstractContextManager[int]:
        """Held by the device's agent, of which there is one: two would throw each other out at the broker.

        Raises:
            FleetError: on entering: another process holds it.
        """
        return hold(self.folder / "agent.lock", f"{self.folder}: this device's agent runs already")

    def agent_pid(self) -> int | None:
        """The process of the agent that runs, or None."""
        return holder(self.folder / "agent.lock")

    def note_connection(self, connected: bool, broker: str, refusal: str = "") -> None:
        """Keeps for `edge device status` that the agent has its broker, or has it no more, or why not.

        A disk that is full stops nothing: it is only told.
        """
        known = self.connection() or {}
        since = known.get("at") if refusal else time.time()
        note = {"connected": connected, "broker": broker, "at": since, "refusal": refusal[:100]}
        with contextlib.suppress(OSError), whole_file(self._connection) as file:
            file.write(json.dumps(note).encode() + b"\n")

    def connection(self) -> dict[str, Any] | None:
        """What `note_connection` kept: connected, broker, refusal, and at: since when, or when it was lost; or None."""
        try:
            fields = Fields(json.loads(self._connection.read_text()), str(self._connection))
            at = fields.raw("at")
            return {
                "connected": bool(fields.raw("connected")),
                "broker": fields.text("broker", 300),
                "at": float(at) if isinstance(at, (int, float)) else None,
                "refusal": fields.text("refusal", 100),
            }
        except (OSError, ValueError, BadFile):
            return None

    def save_labels(self, labels: dict[str, str]) -> None:
        """Keeps the labels that the device gives itself."""
        with whole_file(self._labels) as file:
            file.write(json.dumps(labels, indent=2).encode() + b"\n")

    def labels(self) -> dict[str, str]:
        """The labels that the device gives itself.

        Raises:
            FleetError: labels.json is damaged.
        """
        try:
            fields = Fields({"labels": json.loads(self._labels.read_text())}, str(self._labels))
            return fields.table("labels", 64, lambda value, where: text(value, where, 100))
        except FileNotFoundError:
            return {}
        except (ValueError, BadFile) as error:
            raise FleetError(f"{self._labels}: damaged ({error}): put it right, or remove it") from error

    def accept(self, answer: CertificateAnswer, host: str) -> Place:
        """Puts an issued certificate in place, with its key.

        The root of what models are signed with comes along, if the device has none yet: over this connection, of which
        the claim token says whose it is, and not later over one where anybody could stand in the middle.

        Args:
            host: where the answer came from; it counts if the answer names no addresses.

        Raises:
            FleetError: it is not for the key that waits, not of the authority that came with it, or of another one
                than the device believed before.
        """
        key = self._load_next()
        if key is None or key_fingerprint(key.public_key()) != answer.key:
            raise FleetError("a certificate came for a key that this device does not have")
        if self.root.exists() and self.root.read_text() != answer.root and self.place() is not None:
            raise FleetError("a certificate came from another fleet than this device belongs to")
        try:
            certificate, issuer, *_ = x509.load_pem_x509_certificates(answer.certificate.encode())
            certificate.verify_directly_issued_by(issuer)
            issuer.verify_directly_issued_by(x509.load_pem_x509_certificate(answer.root.encode()))
        except Exception as error:  # what cryptography's parsers and checks raise
            raise FleetError(f"a certificate came that is not what it should be ({str(error)[:80]})") from error
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if certificate.public_key() != key.public_key() or [name.value for name in names] != [answer.device]:
            raise FleetError("a certificate came for another key or device")
        if answer.addresses:
            first = Address.parse(answer.addresses[0], answer.port)
            place = Place(answer.device, first.host, first.port, answer.addresses[1:])
        else:
            place = Place(answer.device, host, answer.port)
        if answer.models_root:
            try:
                TrustedModels.provision(self.folder / "trust", answer.models_root.encode())
            except EdgeError as error:
                raise FleetError(f"a certificate came with a root for models that is not one ({error})") from error
        with whole_file(self.root) as file:
            file.write(answer.root.encode())
        self._write_private(self.identity, _key_bytes(key) + answer.certificate.encode())
        with whole_file(self._place) as file:
            file.write(json.dumps(asdict(place), indent=2).encode() + b"\n")
        self.forget_request()
        return place

    def renewal_due(self) -> float:
        """When the next certificate should be asked for: at two thirds of this one's life, seconds since 1970.

        Raises:
            FleetError: the certificate cannot be read.
        """
        try:
            certificate = x509.load_pem_x509_certificate(self.identity.read_bytes())
        except (OSError, ValueError) as error:
            raise FleetError(f"{self.identity}: not readable ({error}): enroll the device again") from error
        begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        return begin + (end - begin) * 2 / 3

    def expired(self) -> bool:
        """Whether the certificate's time is over, by this machine's clock."""
        certificate = x509.load_pem_x509_certificate(self.identity.read_bytes())
        return certificate.not_valid_after_utc.timestamp() < time.time()

    def trust(self) -> ssl.SSLContext:
        """TLS as this device, to the broker of its fleet and nobody else.

        Names are not compared: the fleet's authority gives certificates for servers to its broker alone, which may be
        reached under any address.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.root)
        context.load_cert_chain(self.identity)
        return context

    def _load_next(self) -> ec.EllipticCurvePrivateKey | None:
        try:
            key = load_pem_private_key(self._next_key.read_bytes(), None)
        except FileNotFoundError:
            return None
        except ValueError:
            return None  # damaged: a new one is made
        return key if isinstance(key, ec.EllipticCurvePrivateKey) else None

    def _write_private(self, path: Path, content: bytes) -> None:
        with whole_file(path) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
