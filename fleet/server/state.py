"""The folder in which a fleet lives, and the settings that `edge fleet up` was last given."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.fleet.addresses import Address, parse_url
from edge.fleet.errors import FleetError
from edge.fleet.identity import MOST_WORKERS
from edge.runtime.errors import BadFile
from edge.runtime.fields import Fields, integer, text
from edge.runtime.whole_file import whole_file

if TYPE_CHECKING:
    from edge.fleet.server.database import Database


@dataclass(frozen=True)
class Settings:
    """`fleet.json`: what holds from one start to the next.

    Attributes:
        database: URL of a PostgreSQL database, or "" for the SQLite file in the folder. It may hold a password; the
            file's mode is 0600.
        broker: URL of another broker, with one or several addresses, or "" for the supervised one.
        boot: URL of that one's bootstrap listeners; "" is the same hosts with `boot_port`.
        broker_reload: command that has another broker read its files again, or "".
        nats: URL at which the nodes of a NATS cluster ask the server who may come in, or "".
        host: address that the supervised broker listens on; "" is all.
        port, boot_port: of its main and its bootstrap listener.
        metrics_port: of Prometheus metrics on loopback; 0 is none.
        names: host names and addresses, beside this machine's own, that the broker's certificate is valid for.
        sparql: URL of a SPARQL endpoint, or "" for the store in the folder.
        workers: among how many processes of their own the devices are divided; 0 or 1: none.
    """

    database: str = ""
    broker: str = ""
    boot: str = ""
    broker_reload: str = ""
    nats: str = ""
    host: str = ""
    port: int = 8883
    boot_port: int = 8884
    metrics_port: int = 9464
    names: tuple[str, ...] = ()
    sparql: str = ""
    workers: int = 0

    @property
    def on_nats(self) -> bool:
        return bool(self.nats and self.broker)

    @property
    def most_qos(self) -> int:
        """At which QoS the fleet's own services publish: at 1 a NATS cluster writes each message to three disks."""
        return 0 if self.on_nats else 1

    def boot_addresses(self, host: str = "") -> tuple[Address, ...]:
        """Where devices enroll.

        Args:
            host: this machine as devices call it; "" for its name.

        Raises:
            FleetError: --broker or --boot is no URL of a broker.
        """
        if self.boot:
            return parse_url(self.boot, self.boot_port, "--boot")
        if self.broker:
            hosts = dict.fromkeys(address.host for address in parse_url(self.broker, self.port, "--broker"))
            return tuple(Address(one, self.boot_port) for one in hosts)
        return (Address(host or socket.gethostname(), self.boot_port),)

    def boot_url(self, host: str = "") -> str:
        """The same as a URL, as `edge device enroll` takes it."""
        return "mqtts://" + ",".join(map(str, self.boot_addresses(host)))


# Settings that a fleet.json of an earlier edge does not have.
_NEWER = ("boot", "broker_reload", "nats")
NATS_PORT = 8885
"""Where NATS servers listen for the fleet's server, if nothing else is said."""


class State:
    """A fleet's folder, mode 0700: ca/, broker/, registry.sqlite, models/, tuf/, semantic/, fleet.json."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = folder / "ca"
        self.broker = folder / "broker"
        self.models = folder / "models"
        self.tuf = folder / "tuf"
        self.semantic = folder / "semantic"
        self.registry = folder / "registry.sqlite"
        self.workers = folder / "workers.json"
        self._settings = folder / "fleet.json"
        # There until the folder's own registry is made, which may be never: with PostgreSQL it is not.
        self._registry_to_come = folder / "registry.new"

    @property
    def begun(self) -> bool:
        """Whether a fleet was made here; `create` makes one where there was none."""
        return self._settings.exists()

    def worker_identity(self, number: int) -> Path:
        """The file with a worker's key and certificate."""
        return self.broker / f"worker-{number}.pem"

    @classmethod
    def create(cls, folder: Path) -> State:
        """The state in `folder`, which is made if it is missing, with its keys; the registry is made when it is opened.

        These are made once. If one is gone later, another would be a fleet that no device believes.

        Raises:
            FleetError: the folder cannot be made, others may look into it, or its keys or its registry are gone.
        """
        state = cls(folder)
        begun = state.begun
        if begun:
            state.check()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_mode & 0o077:
                if any(folder.iterdir()) and not state._settings.exists():
                    raise FleetError(f"{folder}: others may read it, and it holds other things: name a new folder")
                folder.chmod(0o700)
            for part in (state.authority, state.broker, state.models, state.tuf, state.semantic):
                part.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise FleetError(f"{folder}: cannot be used for a fleet's state ({error.strerror})") from error
        if not begun:
            state._found()
            state.save(Settings())  # last: a folder that has it had all the rest
        return state

    def _found(self) -> None:
        """Makes the keys of a new fleet, and lets its registry be made; goes on where a crash interrupted that.

        Raises:
            FleetError: this was a fleet already, whose fleet.json was removed, and something is gone.
        """
        from edge.fleet.server.authority import Authority
        from edge.fleet.server.updates.repository import ModelRepository

        if self.registry.exists() or self._registry_to_come.exists():
            self.check(Settings())
        Authority(self.authority)
        ModelRepository.create(self.tuf)
        self._registry_to_come.touch(0o600)

    def missing(self, settings: Settings | None = None) -> list[tuple[str, str]]:
        """What was made with the fleet and is gone: (what, where); `settings` are those in the folder by default."""
        found: list[tuple[str, str]] = []
        names = ("root.pem", "issuing.pem", "issuing.key")
        if gone := [name for name in names if not (self.authority / name).is_file()]:
            found.append(("keys", " ".join(f"ca/{name}" for name in gone) if len(gone) < len(names) else "ca/"))
        metadata = self.tuf / "metadata"
        kinds = ("1.root.json", "*.targets.json", "*.snapshot.json", "timestamp.json")
        if gone := [kind for kind in kinds if not any(metadata.glob(kind))]:
            listed = " ".join(f"tuf/metadata/{kind}" for kind in gone)
            found.append(("signed models", listed if len(gone) < len(kinds) else "tuf/"))
        elsewhere = (self.settings() if settings is None else settings).database
        made = self.registry.is_file() and self.registry.stat().st_size
        if not elsewhere and not made and not self._registry_to_come.exists():
            found.append(("registry", self.registry.name))
        return found

    def check(self, settings: Settings | None = None) -> None:
        """Sees to it that all is there that was made with the fleet.

        Raises:
            FleetError: something is gone.
        """
        for what, where in self.missing(settings):
            raise FleetError(
                f"{self.folder}: the fleet's {what} {where} {'is' if what == 'registry' else 'are'} gone: restore your "
                "backup of the folder (another would be a new fleet, which no device believes)"
            )

    @classmethod
    def existing(cls, folder: Path) -> State:
        """The state in `folder`.

        Raises:
            FleetError: there is none, or its keys or its registry are gone.
        """
        state = cls.at(folder)
        state.check()
        return state

    @classmethod
    def at(cls, folder: Path) -> State:
        """The state in `folder`, of which parts may be gone.

        Raises:
            FleetError: there is none.
        """
        state = cls(folder)
        if not state._settings.is_file() and state.authority.is_dir():
            raise FleetError(
                f"{state._settings}: gone: restore it from your backup, or let 'edge fleet up' write one of defaults "
                "(name --db, --broker and the ports again)"
            )
        if not state._settings.is_file():
            raise FleetError(f"{folder}: no fleet there: start one with 'edge fleet up', or name its folder (--state)")
        return state

    def settings(self) -> Settings:
        """What `fleet.json` says.

        Raises:
            FleetError: it is damaged.
        """
        where = str(self._settings)
        try:
            fields = Fields(json.loads(self._settings.read_text()), where)
            settings = Settings(
                database=fields.text("database", 1000),
                broker=fields.text("broker", 1000),
                **{name: text(fields.raw(name, ""), f"{where}.{name}", 1000) for name in _NEWER},
                host=fields.text("host", 255),
                port=fields.integer("port", 1, 65535),
                boot_port=fields.integer("boot_port", 1, 65535),
                metrics_port=fields.integer("metrics_port", 0, 65535),
                names=fields.items("names", 64, lambda value, at: str(value)),
                sparql=fields.text("sparql", 1000),
                workers=integer(fields.raw("workers", 0), f"{where}.workers", 0, MOST_WORKERS),
            )
            fields.done()
        except (OSError, ValueError, BadFile) as error:
            raise FleetError(f"{where}: damaged ({error}): put it right, or remove it for the defaults") from error
        return settings

    def save(self, settings: Settings) -> None:
        with whole_file(self._settings) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(json.dumps(asdict(settings), indent=2).encode() + b"\n")

    def database(self, settings: Settings | None = None) -> Database:
        """Opens the registry; `settings` are those in the folder by default.

        Raises:
            FleetError: it, or what it goes with, is gone; it cannot be opened.
        """
        settings = settings or self.settings()
        self.check(settings)
        return self.open_registry(settings)

    def open_registry(self, settings: Settings) -> Database:
        """The same, whatever else is gone."""
        from edge.fleet.server.database import Database

        database = Database(settings.database or self.registry)
        if not settings.database:
            self._registry_to_come.unlink(missing_ok=True)
        return database
