"""A cluster of NATS servers as the fleet's broker: what `edge fleet broker-config nats` writes for each of its hosts.

Each host runs two nats-servers, because one has a single listener for MQTT:

- **node.conf**: asks every device for its certificate. Together they are the cluster; JetStream keeps MQTT's sessions
  on three of them.
- **boot.conf**: a member of the same cluster, without JetStream, for devices with a claim token and no certificate.

Neither knows a device or a token. At each connection they ask the fleet's server who comes, and what it may say and
hear (NATS's "auth callout", `edge.fleet.server.nats_admission`). Lists of users in the configuration were the other
way: they hold no pattern such as mosquitto's `%u`, so that each device is an entry, read again on every host whenever
one comes or goes; and they cannot bind a client id to its certificate, so that any device could take another's session
over.

Ports of a host, from the one that is given: +0 devices, +1 devices that enroll, +2 the fleet's server, +3 and +4
routes between the servers of the cluster.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.fleet.addresses import Address
from edge.fleet.errors import FleetError
from edge.fleet.identity import SERVER_ID
from edge.fleet.messages import LONGEST
from edge.fleet.server.authority import Authority
from edge.fleet.server.nats_admission import ACCOUNT, SigningKey
from edge.runtime.whole_file import whole_file

# The MQTT packet of the longest message: its topic, which becomes a NATS subject, and headers that NATS adds.
_LONGEST_PACKET = LONGEST + 2048
_PORTS = 5
_REPLICAS = 3
_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_KEPT = "cluster.secret"


@dataclass(frozen=True)
class Node:
    """One host of the cluster: its name, its address, and the first of its five ports."""

    name: str
    at: Address

    @property
    def boot(self) -> Address:
        return Address(self.at.host, self.at.port + 1)

    @property
    def server(self) -> Address:
        return Address(self.at.host, self.at.port + 2)


def nodes_of(addresses: Sequence[Address]) -> tuple[Node, ...]:
    """The nodes at these addresses, which must not overlap.

    Raises:
        FleetError: there are too few or too many, or two want the same port.
    """
    if len(addresses) not in (1, 3, 5):
        raise FleetError(f"{len(addresses)} nodes: a cluster has 3 or 5, so that a majority is left when one dies")
    taken: set[tuple[str, int]] = set()
    nodes = []
    for number, address in enumerate(addresses, 1):
        if address.port + _PORTS > 65536:
            raise FleetError(f"{address}: the four ports after it are needed too")
        ports = {(address.host, address.port + offset) for offset in range(_PORTS)}
        if ports & taken:
            raise FleetError(f"{address}: each node needs {_PORTS} ports of its own, from the one that is given")
        taken |= ports
        nodes.append(Node(f"n{number}-{_NAME.sub('-', address.host).strip('-') or 'node'}", address))
    return tuple(nodes)


def write_cluster(folder: Path, authority: Authority, key: SigningKey, broker: Path, nodes: Sequence[Node]) -> None:
    """Writes a folder for each node: node.conf, boot.conf, and the keys and certificates that they name.

    Args:
        folder: made if missing; what it holds of an earlier call is replaced, the cluster's secret kept.
        authority: the fleet's.
        key: signs the server's answers about who may come in.
        broker: folder with broker.key and broker.pem (`Authority.broker_certificate`), to which tokens are pinned.
        nodes: `nodes_of`.

    Raises:
        FleetError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        secret = _secret(folder / _KEPT)
        common = {
            "ca.pem": (authority.root_pem + authority.issuing_pem).encode(),
            "broker.pem": (broker / "broker.pem").read_bytes(),
            "broker.key": (broker / "broker.key").read_bytes(),
        }
        for node in nodes:
            place = folder / node.name
            place.mkdir(exist_ok=True, mode=0o700)
            hosts = [node.at.host]
            authority.member_certificate(place / "route.key", place / "route.pem", hosts)
            for name, content in common.items():
                _write(place / name, content)
            _write(place / "node.conf", _node(node, nodes, secret, key.public).encode())
            _write(place / "boot.conf", _boot(node, nodes, secret, key.public).encode())
    except OSError as error:
        raise FleetError(f"{error.filename or folder}: cannot be written ({error.strerror})") from error


def _secret(path: Path) -> str:
    """What servers of the cluster show each other, beside certificates: devices have some of the same authority."""
    if not path.exists():
        _write(path, secrets.token_hex(32).encode())
    text = path.read_text().strip()
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise FleetError(f"{path}: damaged: remove it, and bring what is written then to all hosts")
    return text


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)


def _node(node: Node, nodes: Sequence[Node], secret: str, issuer: str) -> str:
    at = node.at
    return f"""\
# Written by 'edge fleet broker-config nats': changes are lost. Paths are relative to this folder:
#   cd {node.name} && nats-server -c node.conf
server_name: "{node.name}"
{_common(issuer)}
# The fleet's server, which answers who may come in.
listen: "{_any(at, 2)}"
tls {{
  cert_file: "broker.pem"
  key_file: "broker.key"
  ca_file: "ca.pem"
  verify_and_map: true
  timeout: 10
}}

jetstream {{
  store_dir: "data"
  max_memory_store: 256MB
  max_file_store: 10GB
}}
{_cluster(node, 3, nodes, secret)}
mqtt {{
  listen: "{_any(at, 0)}"
  tls {{
    cert_file: "broker.pem"
    key_file: "broker.key"
    ca_file: "ca.pem"
    verify: true
    timeout: 30
  }}
  stream_replicas: {min(_REPLICAS, len(nodes))}
  # Messages on their way to a device at QoS 1; NATS allows 65535 over all of a device's subscriptions.
  max_ack_pending: 1000
  ack_wait: "30s"
  js_api_timeout: "4s"
  consumer_memory_storage: true
  consumer_inactive_threshold: "5m"
}}
"""


def _boot(node: Node, nodes: Sequence[Node], secret: str, issuer: str) -> str:
    at = node.at
    return f"""\
# Written by 'edge fleet broker-config nats': changes are lost. For devices that enroll:
#   cd {node.name} && nats-server -c boot.conf
server_name: "{node.name}-boot"
{_common(issuer, connections=1000)}
# Nobody connects here; a server cannot do without.
listen: "127.0.0.1:-1"
tls {{
  cert_file: "broker.pem"
  key_file: "broker.key"
  ca_file: "ca.pem"
  verify_and_map: true
}}
{_cluster(node, 4, nodes, secret)}
mqtt {{
  listen: "{_any(at, 1)}"
  tls {{
    cert_file: "broker.pem"
    key_file: "broker.key"
    timeout: 30
  }}
  stream_replicas: {min(_REPLICAS, len(nodes))}
  js_api_timeout: "4s"
  consumer_memory_storage: true
  consumer_inactive_threshold: "5m"
}}
"""


def _common(issuer: str, connections: int = 100_000) -> str:
    return f"""\
max_payload: {_LONGEST_PACKET}
max_connections: {connections}
# Of a connection: one of the fleet's services has two for each of its devices.
max_subscriptions: 100000
max_pending: 8MB
write_deadline: "10s"
ping_interval: "20s"
logtime: true

accounts {{
  {ACCOUNT} {{
    jetstream: enabled
    users: [ {{ user: "CN={SERVER_ID}", allowed_connection_types: ["STANDARD"] }} ]
  }}
  SYS {{}}
}}
system_account: SYS
authorization {{
  timeout: 10
  auth_callout {{
    issuer: "{issuer}"
    account: {ACCOUNT}
    auth_users: [ "CN={SERVER_ID}" ]
  }}
}}
"""


def _cluster(node: Node, offset: int, nodes: Sequence[Node], secret: str) -> str:
    routes = "\n".join(f'    "tls://edge:{secret}@{Address(other.at.host, other.at.port + 3)}"' for other in nodes)
    return f"""
cluster {{
  name: "edge"
  listen: "{_any(node.at, offset)}"
  authorization {{ user: "edge", password: "{secret}", timeout: 10 }}
  no_advertise: true
  # A device's certificate is of the same authority: it has no name that matches a route, and not the password.
  tls {{
    cert_file: "route.pem"
    key_file: "route.key"
    ca_file: "ca.pem"
    verify: true
    timeout: 10
  }}
  routes: [
{routes}
  ]
}}
"""


def _any(at: Address, offset: int) -> str:
    """Where to listen: on loopback if that is the node's address (a cluster on one machine), or everywhere."""
    host = at.host if at.host in ("127.0.0.1", "::1", "localhost") else "0.0.0.0"  # noqa: S104
    return str(Address(host, at.port + offset))
