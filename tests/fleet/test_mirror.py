"""Models over HTTPS from a mirror that nobody needs to trust."""

from __future__ import annotations

import contextlib
import http.server
import re
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tuf")

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from edge.fleet.device import mirror as mirrors
from edge.fleet.device import trial
from edge.fleet.device.install import Installer, UpdateJob
from edge.fleet.device.mirror import Mirror, check_mirror
from edge.fleet.device.trusted_metadata import TrustedModels
from edge.fleet.server.updates.publish import publish
from edge.fleet.server.updates.repository import ModelRepository
from edge.fleet.server.updates.source import Source
from edge.fleet.server.updates.store import BlobStore
from edge.runtime.errors import BadInput
from tests.fleet.remade import remade


class _Files(http.server.SimpleHTTPRequestHandler):
    """Gives ranges, as nginx does; `spoil` changes a byte of each."""

    protocol_version = "HTTP/1.1"
    asked: list[str]
    spoil = False
    evil = ""

    def do_GET(self) -> None:
        self.asked.append(self.path)
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        path = Path(self.directory) / self.path.lstrip("/")
        if found is None or not path.is_file():
            self.send_error(404)
            return
        if self.evil:
            getattr(self, f"_{self.evil}")(path)
            return
        begin, end = int(found[1]), int(found[2]) + 1
        data = path.read_bytes()
        part = bytearray(data[begin:end])
        if self.spoil and part:
            part[0] ^= 1
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {begin}-{begin + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def _truncates(self, path: Path) -> None:
        """Promises the whole and ends in the middle of it."""
        data = path.read_bytes()
        self.send_response(206)
        self.send_header("Content-Range", f"bytes 0-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.close_connection = True

    def _redirects(self, path: Path) -> None:
        """Sends the device to a place without TLS."""
        self.send_response(302)
        self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _never_ends(self, path: Path) -> None:
        """Gives what was asked for, and then more and more."""
        self.send_response(206)
        self.send_header("Content-Range", "bytes 0-9/10")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")

    def _drips(self, path: Path) -> None:
        """Gives a byte now and then, so that no time-out of the socket ends it."""
        self.send_response(206)
        self.send_header("Content-Range", "bytes 0-999999/1000000")
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(1000):
                self.wfile.write(b"x")
                time.sleep(0.05)

    def _takes_no_range(self, path: Path) -> None:
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(data)

    def _gives_another_range(self, path: Path) -> None:
        self.send_response(206)
        self.send_header("Content-Range", "bytes 7-9/10")
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"xxx")

    def log_message(self, *_: Any) -> None:
        pass


class Device:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "device"
        self.source = Source(ModelRepository.create(folder / "tuf"), BlobStore(folder / "store"))
        self.over_broker: list[str] = []
        TrustedModels.provision(self.folder / "trust", self.source.repository.trusted_root())
        self.installer = Installer(self.folder, self, check=trial.health_of, compare=trial.shadow_of)

    def fetch(self, name: str, offset: int, length: int) -> bytes | None:
        self.over_broker.append(name)
        return self.source.fetch(name, offset, length)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


@pytest.fixture
def mirror(tmp_path: Path, device: Device) -> Iterator[tuple[str, type[_Files]]]:
    """A mirror of the store whose certificate is of the fleet's own authority."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mirror")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    (device.folder / "root.pem").write_bytes(pem)
    identity = tmp_path / "mirror.pem"
    identity.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + pem)
    (tmp_path / "store").mkdir(exist_ok=True)
    handler = type("Files", (_Files,), {"asked": []})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *words: handler(*words, directory=str(tmp_path / "store"))
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://localhost:{server.server_address[1]}/", handler
    server.shutdown()
    server.server_close()


def _install(device: Device, bundle: Path, tmp_path: Path, mirror: str) -> str:
    made = remade(bundle, tmp_path / "kws.edge", name="kws", version="1.0")
    (variant,) = publish(device.source.repository, device.source.store, made)
    outcome = device.installer.install(UpdateJob("j1", variant.path, mirror=mirror))
    assert outcome is not None and outcome.state == "active", outcome
    return variant.blob.sha256


def test_the_file_comes_from_the_mirror(
    device: Device, mirror: tuple[str, type[_Files]], digits_bundle: Path, tmp_path: Path
) -> None:
    sha256 = _install(device, digits_bundle, tmp_path, mirror[0])
    assert mirror[1].asked == [f"/{sha256[:2]}/{sha256}"]
    assert sha256 not in device.over_broker and "timestamp.json" in device.over_broker


def test_a_mirror_that_lies_costs_time_and_nothing_else(
    device: Device, mirror: tuple[str, type[_Files]], digits_bundle: Path, tmp_path: Path
) -> None:
    mirror[1].spoil = True
    sha256 = _install(device, digits_bundle, tmp_path, mirror[0])
    assert mirror[1].asked and sha256 in device.over_broker


@pytest.mark.parametrize(
    "evil", ["truncates", "redirects", "never_ends", "drips", "takes_no_range", "gives_another_range"]
)
def test_what_a_mirror_may_do_never_stops_an_update(
    device: Device,
    mirror: tuple[str, type[_Files]],
    digits_bundle: Path,
    tmp_path: Path,
    evil: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mirrors, "CHUNK_SECONDS", 1.0)
    monkeypatch.setattr(mirrors, "CHUNK", 100_000)
    mirror[1].evil = evil
    started = time.monotonic()
    sha256 = _install(device, digits_bundle, tmp_path, mirror[0])
    assert time.monotonic() - started < 15
    # One that gives what it can is gone on with: for the rest the broker is asked.
    assert mirror[1].asked and sha256 in device.over_broker
    assert not any(device.installer.store.parts.iterdir())


def test_a_download_goes_on_at_the_mirror_where_the_broker_ended(
    device: Device, mirror: tuple[str, type[_Files]], digits_bundle: Path, tmp_path: Path
) -> None:
    made = remade(digits_bundle, tmp_path / "kws.edge", name="kws", version="1.0")
    (variant,) = publish(device.source.repository, device.source.store, made)
    begun = device.source.store.path(variant.blob.sha256).read_bytes()[:70_000]
    (device.installer.store.parts / variant.blob.sha256).write_bytes(begun)
    ranges: list[str] = []
    mirror[1].do_GET, get = lambda self: ranges.append(self.headers["Range"]) or get(self), mirror[1].do_GET
    outcome = device.installer.install(UpdateJob("j1", variant.path, mirror=mirror[0]))
    assert outcome is not None and outcome.state == "active"
    assert [words.partition("-")[0] for words in ranges] == ["bytes=70000"]
    assert variant.blob.sha256 not in device.over_broker


@pytest.mark.parametrize("url", ["https://localhost:1/", "MIRROR/none"])
def test_where_the_mirror_has_nothing_the_broker_has(
    device: Device, mirror: tuple[str, type[_Files]], digits_bundle: Path, tmp_path: Path, url: str
) -> None:
    sha256 = _install(device, digits_bundle, tmp_path, url.replace("MIRROR/", mirror[0]))
    assert sha256 in device.over_broker


def test_a_stranger_is_no_mirror(
    device: Device, mirror: tuple[str, type[_Files]], digits_bundle: Path, tmp_path: Path
) -> None:
    (device.folder / "root.pem").unlink()
    sha256 = _install(device, digits_bundle, tmp_path, mirror[0])
    assert mirror[1].asked == [] and sha256 in device.over_broker


@pytest.mark.parametrize(
    "url", ["http://a/b", "https://", "ftp://a", "https://a:b@c/", "https://a/?x", "https://a:port/", "file:///etc", ""]
)
def test_urls_that_are_none(url: str, device: Device) -> None:
    with pytest.raises(BadInput, match="expected https://host/path"):
        check_mirror(url)
    with pytest.raises(BadInput):
        Mirror(url, device)
