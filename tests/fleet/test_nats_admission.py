"""Who may come in to a NATS cluster, without one: subjects that keep devices apart, questions that are nonsense."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

pytest.importorskip("nats")

from edge.fleet import topics
from edge.fleet.identity import DEVICE_ID, client_id
from edge.fleet.server.nats_admission import Knock, device_grant, nkey, service_grant, subject, token_grant
from edge.runtime.errors import BadFile

_IDS = st.from_regex(DEVICE_ID, fullmatch=True)
_KINDS = st.sampled_from(("hello", "status", "tel", "td", "csr", "blob"))


def matches(filters: tuple[str, ...], name: str) -> bool:
    """NATS's rule: "*" is one token, ">" is one or more at the end."""

    def one(pattern: list[str], tokens: list[str]) -> bool:
        if not pattern or not tokens:
            return pattern == tokens
        if pattern == [">"]:
            return True
        return pattern[0] in ("*", tokens[0]) and one(pattern[1:], tokens[1:])

    return any(one(each.split("."), name.split(".")) for each in filters)


def test_topics_as_nats_has_them() -> None:
    assert subject("f/v1/attic.mic1/up/job/7f.3a") == "f.v1.attic//mic1.up.job.7f//3a"
    assert subject("f/v1/+/up/#") == "f.v1.*.up.>"


@given(_IDS, _IDS, _KINDS)
def test_no_device_reaches_anothers_subjects(one: str, other: str, kind: str) -> None:
    assume(one != other)
    grant = device_grant(one, 0.0)
    assert matches(grant.publish, subject(topics.up(one, kind))) and not matches(
        grant.publish, subject(topics.up(other, kind))
    )
    assert matches(grant.publish, subject(topics.up(one, "job", "7f"))) and not matches(
        grant.publish, subject(topics.up(other, "job", "7f"))
    )
    assert matches(grant.subscribe, subject(topics.down(one, "ack", "1")))
    assert not matches(grant.subscribe, subject(topics.down(other, "ack", "1")))
    assert not matches(grant.publish, subject(topics.down(one, "cert"))) and client_id(one) != client_id(other)
    for name in (topics.boot_up("tabcdefghijk2"), "$SYS/REQ/USER/AUTH", "$JS/API/INFO", topics.to_all("roll")):
        assert not matches(grant.publish, subject(name))


def test_a_token_reaches_its_two_topics_and_the_server_all() -> None:
    grant = token_grant("tabcdefghijk2")
    assert (grant.publish, grant.subscribe) == (("boot.tabcdefghijk2.up",), ("boot.tabcdefghijk2.down",))
    service = service_grant(0.0)
    for name in (topics.up("a.b", "tel"), topics.boot_up("tabcdefghijk2"), topics.to_all("roll")):
        assert matches(service.subscribe, subject(name)) and matches(service.publish, subject(name))
    assert not matches(service.publish, "$SYS.REQ.USER.AUTH")


def test_a_key_as_nats_writes_it() -> None:
    # The example of github.com/nats-io/nkeys: 32 bytes, a prefix and a checksum, 56 characters.
    assert nkey(0, bytes(32)).startswith("A") and len(nkey(0, bytes(32))) == 56
    assert nkey(20 << 3, bytes(32)).startswith("U")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {
            "user_nkey": st.just("U" * 56) | _JSON,
            "server_id": st.just({"id": "N" * 56}) | _JSON,
            "client_info": st.just({"type": "mqtt", "mqtt_id": "attic"}) | _JSON,
            "connect_opts": st.just({"user": "a", "pass": "b"}) | _JSON,
        },
        optional={"client_tls": st.fixed_dictionaries({}, optional={"verified_chains": _JSON}) | _JSON},
    )
    | _JSON
)
def test_any_question_is_read_or_refused(body: Any) -> None:
    payload = base64.urlsafe_b64encode(json.dumps({"nats": body}).encode()).rstrip(b"=")
    try:
        Knock.read(b"e30." + payload + b".x")
    except BadFile as error:
        assert "\n" not in str(error)


@given(st.binary(max_size=100))
def test_bytes_that_are_no_question(payload: bytes) -> None:
    with pytest.raises(BadFile):
        Knock.read(payload)
