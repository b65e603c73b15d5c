"""The fleet's own MQTT broker: a private mosquitto, its rules, its supervision.

Two listeners, both TLS 1.2 or later:

- the **main** one asks every client for a certificate of the fleet's authority. The certificate's common name is the
  user name *and* the client id (`use_identity_as_username`, `use_username_as_clientid`), whatever the client says, so
  that nobody can take over another's session; pattern rules then give each device its own topics and no others.
- the **bootstrap** one is for devices without a certificate. They show a claim token: its id is the user name and
  the client id, its secret the password, and all that they reach is `boot/<token id>/up` and `…/down`. We let the
  broker ask for the password, in a file that is written anew whenever a token comes or goes, because a stranger
  without a token then does not get as far as sending a message. Whether a token may be used is decided in the database
  all the same.

Nothing is persisted by the broker, and no session outlives its connection. The design once asked for its
`autosave_on_changes`; but what a device sends is repeated until the server acknowledges it out of its database, and
what the server has for a device is sent out of that database when it connects, so that a broker's memory could only
be stale. mosquitto also rewrites its whole file at each save.

Nor does it retain messages, with which any device could fill its memory: a server that (re)connects calls the roll.

Certificates are taken back with a revocation list, which mosquitto reads again at SIGHUP; a session that is open stays
open, which `edge.fleet.server.access` ends by connecting under the same client id (MQTT-3.1.4-2).
"""

from __future__ import annotations

import base64
import contextlib
import getpass
import hashlib
import hmac
import logging
import os
import random
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edge.fleet import topics
from edge.fleet.addresses import local
from edge.fleet.errors import FleetError
from edge.fleet.identity import SERVER_ID, WORKER_IDS, is_token_id
from edge.fleet.messages import LONGEST
from edge.runtime.whole_file import whole_file

_log = logging.getLogger("edge.fleet.broker")

# A message with its topic and MQTT's own bytes.
_LONGEST_PACKET = LONGEST + 1024
# mosquitto's PBKDF2-SHA512 ("$7$"). Secrets are 128 random bits, which no number of iterations makes harder to guess.
_ITERATIONS = 1
_UP_SECONDS, _STOP_SECONDS = 10.0, 5.0
_LOOK_SECONDS = 2.0

_WORKER_RULES = "".join(
    f"user {name}\ntopic read {topics.EVERY_UP}\ntopic write {topics.EVERY_DOWN}\n" for name in WORKER_IDS
)
_DEVICE_RULES = f"""\
# The fleet's own services.
user {SERVER_ID}
topic readwrite {topics.ROOT}/#
topic readwrite boot/#
topic read $SYS/#

# Those that share its work: what devices say, and what they are answered.
{_WORKER_RULES}
# Each device, under its own name only. %u is the common name of its certificate.
pattern write {topics.ROOT}/%u/up/#
pattern read {topics.ROOT}/%u/down/#
pattern read {topics.ROOT}/all/#
"""

_BOOT_RULES = """\
# A device that asks for its first certificate. %u is the id of its claim token.
pattern write boot/%u/up
pattern read boot/%u/down
"""


def password_hash(secret: str) -> str:
    """A secret as mosquitto keeps passwords."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", secret.encode(), salt, _ITERATIONS)
    return f"$7${_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def verify_password(secret: str, hashed: str) -> bool:
    """Whether `password_hash` made `hashed` of this secret."""
    _, _, iterations, salt, digest = hashed.split("$")
    found = hashlib.pbkdf2_hmac("sha512", secret.encode(), base64.b64decode(salt), int(iterations))
    return hmac.compare_digest(found, base64.b64decode(digest))


def find_mosquitto() -> str | None:
    """The broker's program; Debian keeps it where an ordinary user's PATH does not look."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")


@dataclass(frozen=True)
class Listeners:
    """Where the broker listens: `host` "" is every address."""

    host: str
    port: int
    boot_port: int


class BrokerFiles:
    """What a broker has to know, in files of mosquitto's formats: ours reads them, another one's keeper may copy them.

    broker.key and broker.pem are written by `Authority.broker_certificate`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write_rules(self, authorities: str) -> None:
        """Puts the authorities (PEM), and who may say and hear what, in place: ca.pem, devices.acl, boot.acl."""
        self.write("ca.pem", authorities.encode())
        self.write("devices.acl", _DEVICE_RULES.encode())
        self.write("boot.acl", _BOOT_RULES.encode())

    def write_revocations(self, revocation_list: bytes) -> bool:
        """Puts a new revocation list in place, PEM: revoked.pem. It counts when the broker has read it again."""
        return self.write("revoked.pem", revocation_list)

    def write_tokens(self, passwords: Iterable[tuple[str, str]]) -> bool:
        """Puts the claim tokens that are open in place: id and `password_hash` of each, in the file tokens."""
        lines = []
        for name, password in passwords:
            if not is_token_id(name) or "\n" in password:
                raise FleetError(f"{name[:40]!r}: not the id of a claim token")
            lines.append(f"{name}:{password}\n")
        return self.write("tokens", "".join(lines).encode())

    def write(self, name: str, content: bytes) -> bool:
        """Puts a file in place; returns whether it holds something new."""
        path = self._folder / name
        if path.is_file() and path.read_bytes() == content:
            return False
        with whole_file(path) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
        return True


class Mosquitto:
    """A mosquitto process that is started, told of changes, started again if it dies, and stopped.

    The folder holds its configuration and its rules, and what the caller puts there before `start`: broker.key and
    broker.pem (`Authority.broker_certificate`).

    Args:
        folder: mode 0700.
        listeners: where to listen.
        authorities: certificates of the root and the issuing authority, PEM.

    Raises:
        FleetError: mosquitto is not installed.
    """

    def __init__(self, folder: Path, listeners: Listeners, authorities: str) -> None:
        program = find_mosquitto()
        if program is None:
            raise FleetError("mosquitto is not installed: sudo apt install mosquitto, or name a broker with --broker")
        self._program = program
        self._folder = folder.resolve()
        self._files = BrokerFiles(self._folder)
        self._listeners = listeners
        self._authorities = authorities
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._supervisor: threading.Thread | None = None
        self.restarts = 0

    def start(self) -> None:
        """Starts the broker and returns when it listens; from then on it is started again whenever it ends.

        `BrokerFiles.write_revocations` and `write_tokens` have been called.

        Raises:
            FleetError: it does not come up: a port is taken, for example.
        """
        self._files.write_rules(self._authorities)
        self._files.write("mosquitto.conf", self._configuration().encode())
        for leftover in leftovers(self._folder):
            _end_stranger(leftover)
        refuse_taken(self._listeners.host, self._listeners.port, "--port")
        refuse_taken(self._listeners.host, self._listeners.boot_port, "--boot-port")
        self._stopping.clear()
        self._launch()
        self._supervisor = threading.Thread(target=self._supervise, name="broker", daemon=True)
        self._supervisor.start()

    def reload(self) -> None:
        """Has the broker read its revocation list, tokens and rules again."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Ends the broker and waits for it."""
        self._stopping.set()
        with self._lock:
            process = self._process
            if process is not None:
                _end(process)
        if self._supervisor is not None:
            self._supervisor.join(_STOP_SECONDS)
            self._supervisor = None
        (self._folder / "mosquitto.pid").unlink(missing_ok=True)

    @property
    def pid(self) -> int | None:
        """The process that listens now, if one does."""
        with self._lock:
            alive = self._process is not None and self._process.poll() is None
            return self._process.pid if alive and self._process else None

    def _launch(self) -> None:
        # A connection is a file: a thousand, the usual limit, would be a thousand devices.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        process = subprocess.Popen(
            [self._program, "-c", str(self._folder / "mosquitto.conf")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=self._folder,
            start_new_session=True,  # Ctrl-C is meant for the server, which ends its broker when it has done with it
        )
        with self._lock:
            self._process = process
        self._files.write("mosquitto.pid", f"{process.pid}\n".encode())
        complaints: list[str] = []
        threading.Thread(target=self._read_log, args=(process, complaints), name="broker log", daemon=True).start()
        deadline = time.monotonic() + _UP_SECONDS
        while not all(
            _listens(self._listeners.host, port) for port in (self._listeners.port, self._listeners.boot_port)
        ):
            if process.poll() is not None or time.monotonic() > deadline:
                _end(process)
                said = "; ".join(complaints[-2:]) or f"it ended with {process.returncode}"
                raise FleetError(f"the broker (mosquitto) did not start: {said}")
            if self._stopping.wait(0.02):
                return

    def _supervise(self) -> None:
        failures = 0
        while True:
            process = self._process
            assert process is not None
            started = time.monotonic()
            _wait(process)
            if self._stopping.is_set():
                return
            failures = failures + 1 if time.monotonic() - started < 10 else 0
            _log.error("the broker ended with %s: starting it again", process.returncode)
            while not self._stopping.wait(min(30.0, 0.1 * 2**failures) * random.uniform(0.5, 1.0)):  # noqa: S311
                try:
                    self._launch()
                    self.restarts += 1
                    break
                except FleetError as error:
                    failures += 1
                    _log.error("%s", error)
            else:
                return

    def _read_log(self, process: subprocess.Popen[str], complaints: list[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            text = line.strip()
            # The rule for what all devices read names no device, and is meant to.
            bad = text.startswith(("Error", "Warning")) and "does not contain '%c'" not in text
            if bad:
                complaints.append(text[:300])
                del complaints[:-10]
            _log.log(logging.WARNING if bad else logging.DEBUG, "%s", text[:300])

    def _configuration(self) -> str:
        # Paths come last on a line and run to its end, so that spaces need no quotes; a line end cannot be in them.
        folder, at = self._folder, self._listeners
        if "\n" in str(folder):
            raise FleetError(f"{folder!s}: a folder with a line end in its name cannot be used")
        host = f" {at.host}" if at.host else ""
        return f"""\
# Written by edge at every start: changes are lost.
user {getpass.getuser()}
per_listener_settings true
persistence false
log_dest stderr
log_timestamp false
log_type error
log_type warning
connection_messages false
set_tcp_nodelay true
retain_available false
max_packet_size {_LONGEST_PACKET}
max_inflight_messages 1000
max_queued_messages 20000
max_queued_bytes 67108864

listener {at.port}{host}
allow_anonymous false
cafile {folder}/ca.pem
certfile {folder}/broker.pem
keyfile {folder}/broker.key
crlfile {folder}/revoked.pem
require_certificate true
use_identity_as_username true
use_username_as_clientid true
acl_file {folder}/devices.acl

listener {at.boot_port}{host}
allow_anonymous false
certfile {folder}/broker.pem
keyfile {folder}/broker.key
password_file {folder}/tokens
use_username_as_clientid true
acl_file {folder}/boot.acl
max_connections 1000
"""


def leftovers(folder: Path) -> list[int]:
    """Processes of the folder's brokers, also those whose server was killed; known by their configuration's path.

    The number in mosquitto.pid alone would miss one whose server was killed before it wrote that.
    """
    wanted = [b"-c", os.fsencode(folder.resolve() / "mosquitto.conf")]
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            program, *arguments = entry.read_bytes().rstrip(b"\0").split(b"\0")
            same_user = entry.stat().st_uid == os.geteuid()
        except OSError:  # it has ended meanwhile
            continue
        # Not everything that names the file: a person may be reading it.
        if same_user and arguments == wanted and program.endswith(b"mosquitto"):
            found.append(int(entry.parent.name))
    return found


def _end_stranger(pid: int) -> None:
    """Ends a process that is no child of this one, and returns when it has ended."""
    _log.warning("ending the broker that an earlier server left behind (process %d)", pid)
    deadline = time.monotonic() + _STOP_SECONDS
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)


def most_memory() -> int:
    """Bytes that the broker may take: half of this machine's."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _wait(process: subprocess.Popen[str]) -> None:
    """Waits for the broker to end, and ends it when it has taken too much memory.

    mosquitto bounds neither the subscriptions of a client nor well what it keeps for one that does not read. It holds
    nothing that would be lost: what was not acknowledged is sent again.
    """
    while True:
        try:
            process.wait(_LOOK_SECONDS)
            return
        except subprocess.TimeoutExpired:
            taken = _memory_of(process.pid)
            if taken > most_memory():
                _log.error("the broker has taken %d MB of memory: a client makes it", taken // 1_000_000)
                _end(process)


def _memory_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):  # no Linux, or it has ended
        return 0


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((local(host), port), 1):
            return True
    except OSError:
        return False


def refuse_taken(host: str, port: int, option: str) -> None:
    """Sees to it that a port can be listened on.

    Args:
        option: that names another.

    Raises:
        FleetError: it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            at = f"port {port} of {host or 'this machine'}"
            raise FleetError(f"{at}: {error.strerror}: choose another with {option}") from error
