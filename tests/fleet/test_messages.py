"""Messages, topics, inventories, tokens: what is well formed survives the way there and back, the rest is refused."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.fleet import identity, messages, topics
from edge.fleet.errors import BadMessage, Refused
from edge.fleet.inventory import InstalledModel, Inventory
from edge.fleet.messages import Envelope

INVENTORY = Inventory(
    arch="aarch64",
    cpu="Cortex-A76",
    features=("neon", "asimddp"),
    cores=4,
    ram_kb=8_000_000,
    os="Debian GNU/Linux 12 (bookworm)",
    runtimes={"core": "0.1.0"},
    sensors=("microphone",),
    labels={"building": "7"},
    boards=("attic.mic1",),
    models=(InstalledModel("kws", "2.1", "ab" * 32, active=True),),
    target="pi5",
    operators=("edge::ternary_linear.out", "aten::add.out"),
    dtypes=("int8", "ternary"),
)


def envelope(**changes: object) -> bytes:
    document = {"v": 1, "boot": "0123456789abcdef", "seq": 1, "at": 1.5, "body": {}} | changes
    return json.dumps(document).encode()


def test_an_envelope_survives() -> None:
    sent = Envelope("0123456789abcdef", 7, 1764000000.25, {"values": {"t": 21.5}})
    assert Envelope.read(sent.encode()) == sent


@pytest.mark.parametrize(
    ("payload", "part"),
    [
        (b"\xff", "UTF-8"),
        (b"{", "JSON"),
        (b"[]", "expected an object"),
        (b"[" * 60_000, "JSON"),
        (b'{"v":1,"x":' + b"[" * 20 + b"]" * 20 + b"}", "deeper than 16"),
        (b'{"v": NaN}', "NaN"),
        (b'{"v": 1e999}', "too large"),
        (b'{"v": ' + b"9" * 40 + b"}", "64 bits"),
        (b'{"v": ' + b"9" * 5000 + b"}", "JSON"),
        (b" " * (messages.LONGEST + 1), "65537 bytes"),
        (envelope(v=2), "message.v"),
        (envelope(boot="x"), "message.boot"),
        (envelope(seq=0), "message.seq"),
        (envelope(seq=True), "message.seq"),
        (envelope(at="now"), "message.at"),
        (envelope(body=[]), "message.body"),
    ],
)
def test_a_wrong_envelope_is_refused_by_name(payload: bytes, part: str) -> None:
    with pytest.raises(BadMessage) as caught:
        Envelope.read(payload)
    assert part in str(caught.value)
    assert len(str(caught.value)) < 300


@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    with contextlib.suppress(BadMessage):
        Envelope.read(payload)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
_FIELDS = st.sampled_from(
    (
        *(*Inventory.__dataclass_fields__, *messages.CertificateAnswer.__dataclass_fields__),
        *("inventory", "online", "values", "metrics", "kind", "arguments", "csr", "proof", "hash", "offset", "length"),
        *("name", "version", "sha256"),
    )
)


@pytest.mark.parametrize(
    "read",
    [
        messages.Hello.read,
        messages.Status.read,
        messages.Telemetry.read,
        messages.JobReport.read,
        messages.Job.read,
        messages.CertificateRequest.read,
        messages.CertificateAnswer.read,
        messages.BlobRequest.read,
        Inventory.read,
    ],
)
@given(body=st.dictionaries(_FIELDS, _JSON, max_size=6) | _JSON)
def test_any_body_is_read_or_refused(read: object, body: object) -> None:
    try:
        read(body)  # type: ignore[operator]
    except BadMessage as error:
        assert "\n" not in str(error)


def test_bodies_survive() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    for body in (
        messages.Hello(INVENTORY),
        messages.Status(online=False),
        messages.Telemetry({"t": 21.5, "n": 3, "ok": True, "who": "me"}),
        messages.JobReport("verified", "hash matches", {"agreement": 0.99}),
        messages.Job("identify", {"seconds": 3}),
        messages.CertificateRequest(pem, "attic", "ab" * 32, INVENTORY),
        messages.CertificateAnswer("issued", "ab" * 32, "attic", pem + pem, pem, 8883),
        messages.BlobRequest("ab" * 32, 65536, 4096),
    ):
        back = type(body).read(json.loads(json.dumps(body.json())))  # type: ignore[attr-defined]
        assert back == body


def test_a_root_in_an_answer_is_bounded() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    issued = {"state": "issued", "key": "a" * 64, "device": "attic", "certificate": pem, "root": pem, "port": 8883}
    assert messages.CertificateAnswer.read(issued).models_root == ""  # an older server's
    assert messages.CertificateAnswer.read({**issued, "models_root": "{}"}).models_root == "{}"
    for wrong in ("x" * 32_001, 7, {}):
        with pytest.raises(BadMessage, match="models_root"):
            messages.CertificateAnswer.read({**issued, "models_root": wrong})


def test_unknown_fields_are_ignored_and_missing_ones_have_defaults() -> None:
    assert Inventory.read({"colour": "blue", "arch": "x86_64"}) == Inventory(arch="x86_64")


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"cores": 0}, "inventory.cores"),
        ({"features": ["a"] * 65}, "inventory.features"),
        ({"kind": "mainframe"}, "inventory.kind"),
        ({"operators": ["edge::a b"]}, "inventory.operators[0]"),
        ({"operators": ["a"] * 257}, "inventory.operators"),
        ({"dtypes": ["Int8"]}, "inventory.dtypes[0]"),
        ({"labels": {"a b": "x"}}, "inventory.labels"),
        ({"labels": {"a": "x\x1b[31m"}}, "inventory.labels"),
        ({"models": [{"name": "kws"}]}, "inventory.models[0]"),
        ({"models": [{"name": "kws", "version": "1", "sha256": "xyz"}]}, "models[0].sha256"),
    ],
)
def test_a_wrong_inventory_is_refused_by_name(body: dict[str, object], part: str) -> None:
    with pytest.raises(BadMessage) as caught:
        Inventory.read(body)
    assert part in str(caught.value)


def test_topics_are_built_and_taken_apart() -> None:
    assert topics.parse_up(topics.up("attic", "tel")) == topics.Up("attic", "tel")
    assert topics.parse_up(topics.up("attic", "fl", "9", "3")) == topics.Up("attic", "fl", ("9", "3"))
    assert topics.parse_down(topics.down("attic", "blob", "ab", "0"), "attic") == ("blob", ("ab", "0"))
    assert topics.parse_down(topics.to_all("fl", "9"), "attic") == ("fl", ("9",))
    assert topics.parse_boot(topics.boot_up("tabcdefghijk2")) == "tabcdefghijk2"


@pytest.mark.parametrize(
    "topic",
    ["", "f/v1", "f/v1/attic/up", "f/v1/attic/up/job", "f/v1/attic/up/tel/x", "f/v1/At/up/tel", "f/v1/a/down/cert",
     "f/v1/a/up/job/../x", "f/v2/a/up/tel", "f/v1/a/up/nonsense", "boot/x/up", "f/v1/a/up/job/" + "x" * 200],
)  # fmt: skip
def test_other_topics_are_refused(topic: str) -> None:
    with pytest.raises(BadMessage):
        topics.parse_up(topic)
    with pytest.raises(BadMessage):
        topics.parse_boot(topic)


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a+", "#", "A", "a" * 65, "a\n", "@server", "tabcdefghijkl", "all"])
def test_what_cannot_be_a_device_id(name: str) -> None:
    with pytest.raises(Refused):
        identity.device_id(name)


def test_a_gateway_names_only_its_own_boards() -> None:
    assert identity.attached_to("attic.mic1", "attic")
    assert not identity.attached_to("cellar.mic1", "attic")
    assert not identity.attached_to("attic", "attic")
    assert not identity.attached_to("atticx.mic1", "attic")


def test_a_token_survives_and_hides_its_secret() -> None:
    token = identity.ClaimToken.new("ab" * 32)
    assert identity.ClaimToken.parse(f" {token}\n") == token
    assert token.secret not in repr(token)
    assert identity.is_token_id(token.id)
    for wrong in ("", str(token)[:-1], str(token).upper(), "edge-a-b-c"):
        with pytest.raises(Refused) as caught:
            identity.ClaimToken.parse(wrong)
        assert token.secret not in str(caught.value)


def test_suggested_ids_are_ids() -> None:
    for name in ("Kitchen Pi", "", "..", "Ünïcode", "x" * 300):
        identity.device_id(identity.suggested_id(name, "3f9a01aa"))


_numbers = st.one_of(
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**18, 10**19, 10**20]).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.tuples(st.integers(1, 10**20), st.sampled_from("eE"), st.integers(-400, 400)).map(
        lambda parts: f"{parts[0]}{parts[1]}{parts[2]}"
    ),
    st.tuples(st.integers(1, 9), st.integers(0, 400)).map(lambda parts: f"{parts[0]}E+{parts[1]:04}"),
)
_documents = st.recursive(
    _numbers | st.sampled_from(["true", "null", '"e999 {[1234567890123456789"']),
    lambda inner: (
        st.lists(inner, max_size=2).map(lambda parts: f"[{','.join(parts)}]")
        | inner.map(lambda part: f'{{"a":{part}}}')
    ),
    max_leaves=25,
)


@example("9223372036854775808", 0)
@example("1e999", 0)
@example("[]", 16)
@given(_documents, st.integers(0, 20))
def test_what_is_read_at_a_glance_is_what_the_whole_look_finds_right(document: str, deeper: int) -> None:
    """`parse` looks into every value only where the text holds something that could be too large or too deep."""
    payload = (b"[" * deeper) + document.encode() + (b"]" * deeper)

    def verdict() -> tuple[bool, object]:
        try:
            return True, messages.parse(payload, "x")
        except BadMessage:
            return False, None

    glance = verdict()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "_LARGE", messages.re.compile(b""))
        assert verdict() == glance


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "v": st.sampled_from([1, 1.0, True, 2, "1", None]),
            "boot": st.sampled_from(["ab" * 8, "AB" * 8, "ab", 7, None, "ab" * 8 + "\n"]),
            "seq": st.sampled_from([1, 2**53 - 1, 2**53, 0, -1, True, 1.0, "1"]),
            "at": st.sampled_from([0.0, 1.5, 7, -0.5, 2.0**40, 2.0**41, True, "1"]),
            "body": st.sampled_from([{}, {"a": 1}, [], None, 1]),
        },
    )
)
def test_an_envelope_that_is_right_at_a_glance_is_right(document: dict[str, object]) -> None:
    payload = json.dumps(document).encode()

    def verdict() -> object:
        try:
            return Envelope.read(payload, "x")
        except BadMessage as error:
            return str(error)

    glance = verdict()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Envelope, "_plain", classmethod(lambda cls, value: None))
        assert verdict() == glance
