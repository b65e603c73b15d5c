"""The fleet's MQTT topics: built here, and taken apart here.

    f/v1/<device>/up/{hello,status,tel,job/<id>,fl/<round>/<n>,td,csr,blob}     the device publishes, alone
    f/v1/<device>/down/{job/<id>,fl/<round>,cert,ack/<seq>,blob/<hash>/<offset>} the device reads, alone
    f/v1/all/{roll,fl/<round>}                                                  every device reads
    boot/<token>/{up,down}                                                      a device that has no certificate yet

The broker's rules (`edge.fleet.server.broker`) say the same in its own language.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from edge.fleet.errors import BadMessage
from edge.fleet.identity import DEVICE_ID, is_token_id

ROOT = "f/v1"
EVERY_UP = f"{ROOT}/+/up/#"
EVERY_DOWN = f"{ROOT}/+/down/#"
EVERY_BOOT = "boot/+/up"
EVERY_REQUEST = f"{ROOT}/+/up/csr"
_REST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_UP_LENGTHS = {"hello": 0, "status": 0, "tel": 0, "job": 1, "fl": 2, "td": 0, "csr": 0, "blob": 0}


@dataclass(frozen=True)
class Up:
    """Where a message of a device came in: its kind ("job") and what follows the kind (("7f3a",))."""

    device: str
    kind: str
    rest: tuple[str, ...] = ()


def up(device: str, kind: str, *rest: str) -> str:
    """up("attic", "job", "7f3a") -> "f/v1/attic/up/job/7f3a"."""
    return "/".join((ROOT, device, "up", kind, *rest))


def all_up(device: str) -> list[str]:
    """Filters that match all topics on which a device publishes, and no others."""
    return ["/".join((ROOT, device, "up", kind, *["+"] * count)) for kind, count in _UP_LENGTHS.items()]


def down(device: str, kind: str, *rest: str) -> str:
    """down("attic", "ack", "12") -> "f/v1/attic/down/ack/12"."""
    return "/".join((ROOT, device, "down", kind, *rest))


def everything_down(device: str) -> str:
    """The filter that a device subscribes to."""
    return f"{ROOT}/{device}/down/#"


def everything_up(device: str) -> str:
    """The filter for all that a device says."""
    return f"{ROOT}/{device}/up/#"


def to_all(kind: str, *rest: str) -> str:
    """to_all("fl", "9") -> "f/v1/all/fl/9"; "all" is no device: the broker lets none have topics of that name."""
    return "/".join((ROOT, "all", kind, *rest))


def boot_up(token: str) -> str:
    return f"boot/{token}/up"


def boot_down(token: str) -> str:
    return f"boot/{token}/down"


@lru_cache(maxsize=10_000)
def parse_up(topic: str) -> Up:
    """Takes apart the topic of a device's message.

    Raises:
        BadMessage: it is none of those above.
    """
    parts = topic.split("/")
    if len(parts) >= 5 and parts[:2] == ["f", "v1"] and parts[3] == "up" and DEVICE_ID.fullmatch(parts[2]):
        kind, rest = parts[4], tuple(parts[5:])
        if _UP_LENGTHS.get(kind) == len(rest) and all(map(_REST.fullmatch, rest)):
            return Up(parts[2], kind, rest)
    raise BadMessage(f"topic {topic[:80]!r}: no device publishes there")


def parse_down(topic: str, device: str) -> tuple[str, tuple[str, ...]]:
    """Takes apart a topic that `device` reads, into kind and rest: ("ack", ("12",)).

    Raises:
        BadMessage: it is not one of its topics.
    """
    for start in (f"{ROOT}/{device}/down/", f"{ROOT}/all/"):
        if topic.startswith(start):
            kind, *rest = topic[len(start) :].split("/")
            if all(map(_REST.fullmatch, (kind, *rest))):
                return kind, tuple(rest)
    raise BadMessage(f"topic {topic[:80]!r}: not one of {device}'s")


def parse_boot(topic: str) -> str:
    """The token id in the topic of a request for enrollment.

    Raises:
        BadMessage: it has none.
    """
    parts = topic.split("/")
    if len(parts) == 3 and parts[0] == "boot" and parts[2] == "up" and is_token_id(parts[1]):
        return parts[1]
    raise BadMessage(f"topic {topic[:80]!r}: no request for enrollment comes in there")
