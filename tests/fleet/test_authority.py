"""The certificate authority: what it signs, what it refuses, and how fast it is."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge.fleet.errors import FleetError, Refused
from edge.fleet.server.authority import DEVICE_DAYS, Authority, read_request
from tests.fleet.keys import new_key, request_for


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_certificate_says_what_the_fleet_says_and_nothing_of_the_request(authority: Authority) -> None:
    key = new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "@server")])
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    issued = authority.sign(read_request(greedy.public_bytes(Encoding.PEM).decode()), "attic")
    certificate = x509.load_pem_x509_certificate(issued.pem.encode())
    assert certificate.subject.rfc4514_string() == "CN=attic"
    assert certificate.public_key() == key.public_key()
    extensions = certificate.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert issued.not_after == certificate.not_valid_after_utc.timestamp()
    assert abs(issued.not_after - time.time() - DEVICE_DAYS * 86400) < 60
    issuing = x509.load_pem_x509_certificate(authority.issuing_pem.encode())
    root = x509.load_pem_x509_certificate(authority.root_pem.encode())
    certificate.verify_directly_issued_by(issuing)
    issuing.verify_directly_issued_by(root)
    assert f"{certificate.serial_number:x}" == issued.serial


def test_the_same_authority_after_a_restart(tmp_path: Path) -> None:
    first, again = Authority(tmp_path), Authority(tmp_path)
    assert first.root_pem == again.root_pem and first.issuing_pem == again.issuing_pem
    for name in ("root.key", "issuing.key"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    (tmp_path / "root.key").unlink()  # moved to a safe
    Authority(tmp_path).sign(read_request(request_for(new_key())), "attic")
    (tmp_path / "root.pem").unlink()
    with pytest.raises(FleetError, match="restore"):
        Authority(tmp_path)


def _malformed() -> dict[str, str]:
    key = new_key()
    good = request_for(key)
    der = bytearray(base64.b64decode("".join(good.splitlines()[1:-1])))
    der[-5] ^= 1
    lines = base64.encodebytes(bytes(der)).decode()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    other_curve = builder.sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256())
    other_kind = builder.sign(rsa.generate_private_key(65537, 2048), hashes.SHA256())
    edwards = builder.sign(ed25519.Ed25519PrivateKey.generate(), None)
    return {
        "empty": "",
        "long": good * 50,
        "garbage": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        "signature": f"-----BEGIN CERTIFICATE REQUEST-----\n{lines}-----END CERTIFICATE REQUEST-----\n",
        **{
            label: csr.public_bytes(Encoding.PEM).decode()
            for label, csr in (("P-384", other_curve), ("RSA", other_kind), ("Ed25519", edwards))
        },
    }


@pytest.mark.parametrize("label", ["empty", "long", "garbage", "signature", "P-384", "RSA", "Ed25519"])
def test_a_wrong_request_is_refused(label: str) -> None:
    with pytest.raises(Refused) as caught:
        read_request(_malformed()[label])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["@server", "@broker", "a/b", "+", "all", ""])
def test_nobody_is_named_like_the_fleet_itself(authority: Authority, name: str) -> None:
    with pytest.raises(Refused):
        authority.sign(read_request(request_for(new_key())), name)


def test_the_brokers_key_stays_and_its_certificate_follows_its_names(authority: Authority, tmp_path: Path) -> None:
    key, certificate = tmp_path / "b.key", tmp_path / "b.pem"
    first = authority.broker_certificate(key, certificate)
    before = certificate.read_bytes()
    assert authority.broker_certificate(key, certificate) == first
    assert certificate.read_bytes() == before
    assert authority.broker_certificate(key, certificate, ["fleet.example.org", "10.0.0.7"]) == first
    names = (
        x509.load_pem_x509_certificate(certificate.read_bytes())
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )
    assert "fleet.example.org" in names.get_values_for_type(x509.DNSName)


def test_a_revocation_list_names_what_is_taken_back(authority: Authority) -> None:
    issued = authority.sign(read_request(request_for(new_key())), "attic")
    now = time.time()
    crl = x509.load_pem_x509_crl(authority.revocation_list([(issued.serial, now)], now))
    issuing = x509.load_pem_x509_certificate(authority.issuing_pem.encode())
    assert crl.is_signature_valid(issuing.public_key())  # type: ignore[arg-type]
    assert crl.get_revoked_certificate_by_serial_number(int(issued.serial, 16)) is not None
    assert len(list(x509.load_pem_x509_crl(authority.revocation_list([], now)))) == 0


@pytest.mark.quiet
def test_a_thousand_requests_a_second(authority: Authority) -> None:
    """From the request's text to the certificate's, signature checks included; CPU time."""
    requests = [request_for(new_key()) for _ in range(300)]
    best = 0.0
    for _ in range(3):
        started = time.process_time()
        for number, pem in enumerate(requests):
            authority.sign(read_request(pem), f"device-{number}")
        best = max(best, len(requests) / (time.process_time() - started))
    assert best >= 1000, f"{best:.0f} requests/s"
    print(f"{best:.0f} requests/s")
