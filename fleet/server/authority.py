"""The fleet's certificate authority: a root, an issuing authority below it, what they sign and what they take back.

All keys are P-256 (the curve that every TLS stack and every secure element has). The root signs the issuing authority
and nothing else: its key may be moved off the machine and brought back only to renew that. Devices get certificates for
30 days, good for TLS clients alone; the broker's is good for TLS servers alone, so that no device can pose as the
broker. A profile of RFC 5280.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge.fleet.errors import FleetError, Refused
from edge.fleet.identity import SERVER_ID, device_id, key_fingerprint
from edge.runtime.whole_file import whole_file

DEVICE_DAYS = 30
_DAY = 86400.0
_ROOT_DAYS, _ISSUING_DAYS, _BROKER_DAYS = 20 * 365, 5 * 365, 397
# Clocks differ: certificates begin a little before they are made.
_EARLIER = 300.0
# A revocation list older than this stops every connection; the server writes a new one daily while it runs.
_REVOCATION_LIST_DAYS = 90
_MOST_CSR_BYTES = 16_000

_CLIENT = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
_SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
_MEMBER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
_LEAF = x509.BasicConstraints(ca=False, path_length=None)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


_LEAF_USAGE, _CA_USAGE = _usage(ca=False), _usage(ca=True)


@dataclass(frozen=True)
class Issued:
    """A certificate as the registry keeps it; times are seconds since 1970."""

    serial: str
    device: str
    key: str
    not_before: float
    not_after: float
    pem: str


@dataclass(frozen=True)
class Request:
    """A certificate request that was checked: its key is P-256, and whoever sent it holds it."""

    public_key: ec.EllipticCurvePublicKey
    key: str
    der: bytes


def read_request(pem: str) -> Request:
    """Reads a PKCS #10 request. Nothing in it but the key is looked at, or ever trusted.

    Raises:
        Refused: it is malformed, its key is no P-256 key, or its signature is not that key's.
    """
    try:
        if len(pem) > _MOST_CSR_BYTES:
            raise ValueError("too long")
        csr = x509.load_pem_x509_csr(pem.encode())
        public_key = csr.public_key()
        valid = csr.is_signature_valid
    except Exception as error:  # cryptography raises what its parsers raise
        raise Refused(f"certificate request: malformed ({str(error)[:80]})") from error
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or public_key.curve.name != "secp256r1":
        raise Refused("certificate request: the key must be one on the curve P-256")
    if not valid:
        raise Refused("certificate request: its signature is wrong: the sender does not hold the key")
    return Request(public_key, key_fingerprint(public_key), csr.public_bytes(Encoding.DER))


class Authority:
    """The authority in a folder: root.key, root.pem, issuing.key, issuing.pem; made where they are missing.

    Raises:
        FleetError: the folder holds a certificate without its key, or files that do not belong together.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        root, issuing = folder / "root.pem", folder / "issuing.pem"
        if not root.exists():
            if issuing.exists():
                raise FleetError(f"{root}: missing, but {issuing} is there: restore the folder from a backup")
            self._make_root()
        self._root = _read_certificate(root)
        if not issuing.exists() or _not_after(_read_certificate(issuing)) < time.time() + 2 * DEVICE_DAYS * _DAY:
            self._make_issuing()
        self._issuing = _read_certificate(issuing)
        self._key = _read_key(folder / "issuing.key")
        if self._key.public_key() != self._issuing.public_key():
            raise FleetError(f"{issuing}: not the certificate of issuing.key: restore the folder from a backup")
        self._identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        self.root_pem = _pem(self._root)
        self.issuing_pem = _pem(self._issuing)

    def sign(self, request: Request, device: str, days: float = DEVICE_DAYS) -> Issued:
        """A certificate for the request's key, with the device's id as its name, for `days`.

        Raises:
            Refused: `device` is not a device's id.
        """
        device_id(device)
        return self._issue(request.public_key, request.key, device, days, _CLIENT)

    def service(self, name: str = SERVER_ID, days: float = _BROKER_DAYS) -> tuple[bytes, Issued]:
        """A new key and a client certificate for one of the fleet's own services, PEM: key, then chain."""
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self._issue(key.public_key(), key_fingerprint(key.public_key()), name, days, _CLIENT)
        return _key_bytes(key) + (issued.pem + self.issuing_pem).encode(), issued

    def stand_in(self, device: str) -> bytes:
        """A key and a certificate for five minutes in the name of a device, to take its session away from it."""
        key = ec.generate_private_key(ec.SECP256R1())
        fingerprint = key_fingerprint(key.public_key())
        issued = self._issue(key.public_key(), fingerprint, device_id(device), _EARLIER / _DAY, _CLIENT)
        return _key_bytes(key) + (issued.pem + self.issuing_pem).encode()

    def broker_certificate(self, key_file: Path, certificate_file: Path, names: Iterable[str] = ()) -> str:
        """Makes the broker's key once, and its certificate again where it is due or the names changed.

        The certificate's file holds the chain. The key stays the same: claim tokens are pinned to it.

        Returns:
            The fingerprint of the key.
        """
        if not key_file.exists():
            _write_key(key_file, ec.generate_private_key(ec.SECP256R1()))
        key = _read_key(key_file)
        wanted = sorted({"localhost", socket.gethostname(), "127.0.0.1", "::1", *names})
        fingerprint = key_fingerprint(key.public_key())
        if not (certificate_file.exists() and self._still_good(certificate_file, wanted)):
            alternatives = x509.SubjectAlternativeName([_general_name(name) for name in wanted])
            issued = self._issue(key.public_key(), fingerprint, "@broker", _BROKER_DAYS, _SERVER, alternatives)
            with whole_file(certificate_file) as file:
                file.write((issued.pem + self.issuing_pem + self.root_pem).encode())
        return fingerprint

    def member_certificate(self, key_file: Path, certificate_file: Path, names: Iterable[str]) -> None:
        """A key and a certificate for a broker that is one of several: among themselves each is client and server."""
        key = ec.generate_private_key(ec.SECP256R1())
        _write_key(key_file, key)
        fingerprint = key_fingerprint(key.public_key())
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in sorted(set(names))])
        issued = self._issue(key.public_key(), fingerprint, "@broker", _BROKER_DAYS, _MEMBER, alternatives)
        with whole_file(certificate_file) as file:
            file.write((issued.pem + self.issuing_pem).encode())

    def _still_good(self, certificate_file: Path, names: list[str]) -> bool:
        certificate = _read_certificate(certificate_file)
        try:
            has = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            certificate.verify_directly_issued_by(self._issuing)
        except Exception:  # of another authority, or without names
            return False
        same = sorted(str(name.value) for name in has) == sorted(str(_general_name(name).value) for name in names)
        return same and _not_after(certificate) > time.time() + _BROKER_DAYS * _DAY / 3

    def revocation_list(self, revoked: Iterable[tuple[str, float]], issued_at: float) -> bytes:
        """A list of certificates that are taken back, PEM (a CRL of the issuing authority).

        Args:
            revoked: serial (hexadecimal) and time of each.
            issued_at: must be later than the last list's, by a second at least, and not in the future: of several that
                it was given, OpenSSL believes the latest.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._issuing.subject)
            .last_update(_moment(issued_at))
            .next_update(_moment(issued_at + _REVOCATION_LIST_DAYS * _DAY))
            .add_extension(x509.CRLNumber(int(issued_at)), critical=False)
            .add_extension(self._identifier, critical=False)
        )
        for serial, at in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(_moment(at))
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _issue(
        self,
        public_key: ec.EllipticCurvePublicKey,
        fingerprint: str,
        name: str,
        days: float,
        usage: x509.ExtendedKeyUsage,
        *more: x509.ExtensionType,
    ) -> Issued:
        now = time.time()
        begin, end = now - _EARLIER, min(now + days * _DAY, _not_after(self._issuing))
        serial = x509.random_serial_number()
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._issuing.subject)
            .public_key(public_key)
            .serial_number(serial)
            .not_valid_before(_moment(begin))
            .not_valid_after(_moment(end))
            .add_extension(_LEAF, critical=True)
            .add_extension(_LEAF_USAGE, critical=True)
            .add_extension(usage, critical=False)
            .add_extension(self._identifier, critical=False)
        )
        for extension in more:
            builder = builder.add_extension(extension, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        # The times as the certificate has them: whole seconds.
        return Issued(f"{serial:x}", name, fingerprint, float(int(begin)), float(int(end)), _pem(certificate))

    def _make_root(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"edge fleet root {os.urandom(4).hex()}")
        certificate = _ca_certificate(key.public_key(), name, key, name, _ROOT_DAYS, path_length=1)
        _write_key(self._folder / "root.key", key)
        with whole_file(self._folder / "root.pem") as file:
            file.write(_pem(certificate).encode())

    def _make_issuing(self) -> None:
        """A new issuing certificate for the key that is there (a list of revocations stays valid), or for a new one."""
        try:
            root_key = _read_key(self._folder / "root.key")
        except FileNotFoundError:
            path = self._folder / "root.key"
            raise FleetError(f"{path}: needed to renew the issuing certificate: bring the root key back") from None
        path = self._folder / "issuing.key"
        if not path.exists():
            _write_key(path, ec.generate_private_key(ec.SECP256R1()))
        stem = self._root.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        name = _name(str(stem).replace("root", "issuing"))
        certificate = _ca_certificate(
            _read_key(path).public_key(), name, root_key, self._root.subject, _ISSUING_DAYS, path_length=0
        )
        with whole_file(self._folder / "issuing.pem") as file:
            file.write(_pem(certificate).encode())


def _ca_certificate(
    public_key: ec.EllipticCurvePublicKey,
    name: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    days: int,
    path_length: int,
) -> x509.Certificate:
    now = time.time()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(now - _EARLIER))
        .not_valid_after(_moment(now + days * _DAY))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.timezone.utc)


def _not_after(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    with whole_file(path) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(_key_bytes(key))


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FleetError(f"{path}: not a readable certificate ({error})") from error


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise FleetError(f"{path}: not a readable key ({error})") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FleetError(f"{path}: not a key on the curve P-256")
    return key
