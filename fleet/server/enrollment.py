"""How a device comes to have a certificate, keeps it, and loses it.

    token ──► request ──► pending ──► approved ──► issued ──► renewed … ──► revoked
                             └─────► rejected

A request is known by the fingerprint of its key: a device may repeat it, after whatever loss of power or connection,
and gets the same answer. The first request that comes with a token uses it up; from then on the token answers to that
key alone. Who approves: a person; or, ahead of time, the token, or a list of ids and keys. A request in the name of a
device that exists already is a wiped device, or an impostor: only a person decides that, whatever else allows it.

Every function takes part in the caller's transaction.
"""

from __future__ import annotations

import contextlib
import hmac
import time
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import Connection

from edge.fleet.errors import Refused
from edge.fleet.identity import ClaimToken, attached_to, claim_proof, device_id, renewal_statement, suggested_id
from edge.fleet.messages import LONGEST_ROOT, CertificateAnswer, CertificateRequest
from edge.fleet.server import registry, tables
from edge.fleet.server.authority import Authority, Issued, Request, read_request
from edge.fleet.server.broker import password_hash
from edge.fleet.server.database import audit, emit, upsert

# At most so many requests wait for a person: more are an attack, and are told to try again.
MOST_PENDING = 10_000
_MOST_BOARDS = 256
# A device renews once in 20 days: who asks for more than this, each time with another key, collects certificates.
_MOST_RENEWALS, _RENEWALS_SECONDS = 5, 86400.0
# How long a device may ask with a used token what became of its request.
_ANSWER_DAYS = 30


def create_token(
    connection: Connection,
    broker_key: str,
    actor: str,
    seconds: float,
    device: str | None = None,
    approve: bool = False,
    labels: Mapping[str, str] | None = None,
) -> ClaimToken:
    """A claim token, of which the database keeps only hashes.

    Args:
        broker_key: fingerprint of the broker's key, to which the token is pinned.
        seconds: how long it may be used for the first time.
        device: the only id that it is good for; any, if None.
        approve: whether its use needs no approval.
        labels: what the device is given.
    """
    if device is not None:
        device_id(device, "--device")
    token, now = ClaimToken.new(broker_key), time.time()
    row = {
        "id": token.id,
        "key": token.key.hex(),
        "password": password_hash(token.secret),
        "device": device,
        "approve": approve,
        "labels": dict(labels or {}),
        "created_at": now,
        "created_by": actor,
        "expires_at": now + seconds,
    }
    connection.execute(tables.tokens.insert(), row)
    audit(connection, actor, "token.create", token.id, device=device, approve=approve, expires_at=now + seconds)
    emit(connection, "token.changed", token.id, {})
    return token


def close_token(connection: Connection, token: str, actor: str) -> None:
    """Makes a token good for nothing.

    Raises:
        Refused: there is none of that id that is open.
    """
    table = tables.tokens
    query = table.update().where(table.c.id == token, table.c.closed_at.is_(None))
    if not connection.execute(query.values(closed_at=time.time())).rowcount:
        raise Refused(f"{token}: no open token of that id ('edge fleet token --list')")
    audit(connection, actor, "token.close", token)
    emit(connection, "token.changed", token, {})


def open_tokens(connection: Connection) -> list[tuple[str, str]]:
    """Id and password hash of each token that the broker lets in: unused and in time, or waiting for its answer."""
    return [(row.id, row.password) for row in connection.execute(_open_tokens())]


def open_token(connection: Connection, token: str) -> str | None:
    """The password hash of one of them; None if it is not open."""
    row = connection.execute(_open_tokens().where(tables.tokens.c.id == token)).first()
    return None if row is None else str(row.password)


def _open_tokens() -> sa.Select[Any]:
    table, now = tables.tokens, time.time()
    fresh = sa.and_(table.c.used_by.is_(None), table.c.expires_at > now)
    waiting = table.c.used_at > now - _ANSWER_DAYS * 86400
    return sa.select(table.c.id, table.c.password).where(table.c.closed_at.is_(None), sa.or_(fresh, waiting))


def request(connection: Connection, token_id: str, message: CertificateRequest) -> CertificateAnswer:
    """A device with a claim token asks for its first certificate, or repeats that.

    Raises:
        Refused: the request is malformed, or the token is unknown, expired, used by another key, or closed.
    """
    checked = read_request(message.csr)
    table = tables.tokens
    token = connection.execute(sa.select(table).where(table.c.id == token_id).with_for_update()).first()
    if token is None or not hmac.compare_digest(claim_proof(bytes.fromhex(token.key), checked.der), message.proof):
        raise Refused("the claim token is not one of this fleet's")
    now = time.time()
    if token.closed_at is not None:
        raise Refused("the claim token has done its work, or was taken back: ask the operator for another")
    if token.used_by is None:
        if token.expires_at <= now:
            raise Refused("the claim token has expired: ask the operator for another")
        connection.execute(table.update().where(table.c.id == token_id).values(used_at=now, used_by=checked.key))
        audit(connection, f"token {token_id}", "token.use", token_id, key=checked.key)
    elif token.used_by != checked.key:
        raise Refused("the claim token was used by another device: ask the operator for another")
    if not _known(connection, checked.key):
        # What the device would like to be called yields to what the operator said.
        wanted = token.device or message.device or suggested_id("device", checked.key)
        inventory = message.inventory.json() if message.inventory else {}
        _add(connection, checked, message, device_id(wanted), inventory, token=token, approve=token.approve)
    return answer(connection, checked.key)


def board_request(connection: Connection, gateway: str, message: CertificateRequest) -> CertificateAnswer:
    """A gateway asks for a certificate for a board behind it, or repeats that.

    Raises:
        Refused: the request is malformed, or the board's id is not one that the gateway may give.
    """
    checked = read_request(message.csr)
    if not attached_to(message.device, gateway):
        raise Refused(f"{message.device}: a board behind {gateway} is named {gateway}.something")
    if not _known(connection, checked.key):
        table = tables.enrollments
        count = connection.scalar(
            sa.select(sa.func.count()).where(table.c.gateway == gateway, table.c.state.in_(("pending", "approved")))
        )
        if (count or 0) >= _MOST_BOARDS:
            raise Refused(f"{gateway}: {count} of its boards wait for approval already")
        inventory = message.inventory.json() if message.inventory else {}
        _add(connection, checked, message, device_id(message.device), inventory, gateway=gateway)
    return answer(connection, checked.key)


def _known(connection: Connection, key: str) -> bool:
    table = tables.enrollments
    return connection.scalar(sa.select(table.c.key).where(table.c.key == key)) is not None


def _add(
    connection: Connection,
    checked: Request,
    message: CertificateRequest,
    device: str,
    inventory: dict[str, Any],
    token: Any = None,
    gateway: str | None = None,
    approve: bool = False,
) -> None:
    table = tables.enrollments
    waiting = connection.scalar(sa.select(sa.func.count()).where(table.c.state == "pending")) or 0
    if waiting >= MOST_PENDING:
        raise Refused("too many devices wait for approval: try again later")
    replaces = connection.scalar(sa.select(tables.devices.c.id).where(tables.devices.c.id == device)) is not None
    row = {
        "key": checked.key,
        "token": token.id if token else None,
        "gateway": gateway,
        "device": device,
        "csr": message.csr,
        "inventory": inventory,
        "labels": token.labels if token else {},
        "state": "pending",
        "replaces": replaces,
        "created_at": time.time(),
    }
    connection.execute(table.insert(), row)
    origin = f"token {token.id}" if token else str(gateway)
    audit(connection, origin, "enrollment.request", device, key=checked.key, replaces=replaces)
    emit(connection, "enrollment.requested", checked.key, {"device": device})
    if replaces:
        return
    subjects = (device, checked.key)
    listed = tables.preapprovals
    if connection.scalar(sa.select(listed.c.subject).where(listed.c.subject.in_(subjects)).limit(1)):
        connection.execute(listed.delete().where(listed.c.subject.in_(subjects)))
        approve_request(connection, checked.key, "fleet", reason="on the list of those approved ahead")
    elif approve:
        approve_request(connection, checked.key, "fleet", reason=f"by its token, of {token.created_by}")


def pending(connection: Connection) -> list[dict[str, Any]]:
    """The requests that wait for a decision, oldest first."""
    table = tables.enrollments
    query = sa.select(table).where(table.c.state == "pending").order_by(table.c.created_at)
    return [dict(row._mapping) for row in connection.execute(query)]


def find_pending(connection: Connection, name: str) -> dict[str, Any]:
    """The waiting request of the device with this id, or of the key whose fingerprint begins so.

    Raises:
        Refused: there is none, or more than one.
    """
    rows = pending(connection)
    found = [row for row in rows if row["key"] == name] or [row for row in rows if row["device"] == name]
    if not found and len(name) >= 6:
        found = [row for row in rows if row["key"].startswith(name)]
    if len(found) > 1:
        keys = ", ".join(row["key"][:12] for row in found[:4])
        raise Refused(f"{name}: several requests have that name: say which by its key ({keys})")
    if not found:
        raise Refused(f"{name}: no such request waits ('edge fleet pending' lists them)")
    return found[0]


def approve_request(
    connection: Connection, key: str, actor: str, device: str | None = None, replace: bool = False, reason: str = ""
) -> str:
    """Grants a certificate, which the running server signs.

    Args:
        device: another id than the one that was asked for.
        replace: the device may take the place of one that exists, whose certificates are then revoked.

    Returns:
        The device's id.

    Raises:
        Refused: the request is not pending, or a device of that id exists and `replace` was not said.
    """
    table = tables.enrollments
    row = connection.execute(sa.select(table).where(table.c.key == key).with_for_update()).first()
    if row is None or row.state != "pending":
        raise Refused(f"{key[:12]}: does not wait for a decision")
    name = device_id(device, "the id") if device else str(row.device)
    if row.gateway and not attached_to(name, row.gateway):
        raise Refused(f"{name}: a board behind {row.gateway} is named {row.gateway}.something")
    exists = connection.scalar(sa.select(tables.devices.c.id).where(tables.devices.c.id == name)) is not None
    taken = connection.scalar(
        sa.select(table.c.key).where(table.c.device == name, table.c.state == "approved", table.c.key != key)
    )
    if taken or (exists and not replace):
        raise Refused(
            f"{name}: a device of that name exists: --replace, if this is the same one wiped and the old key is void; "
            "or give it another name with --as"
        )
    values = {"state": "approved", "device": name, "replaces": exists, "reason": reason, "decided_by": actor}
    connection.execute(table.update().where(table.c.key == key).values({**values, "decided_at": time.time()}))
    audit(connection, actor, "enrollment.approve", name, key=key, replaces=exists, reason=reason)
    emit(connection, "enrollment.decided", key, {"state": "approved"})
    return name


def reject_request(connection: Connection, key: str, actor: str, reason: str = "") -> None:
    """Turns a request down for good; the device is told.

    Raises:
        Refused: the request is not pending.
    """
    table = tables.enrollments
    values = {"state": "rejected", "decided_by": actor, "decided_at": time.time(), "reason": reason}
    row = connection.execute(sa.select(table).where(table.c.key == key, table.c.state == "pending")).first()
    if row is None:
        raise Refused(f"{key[:12]}: does not wait for a decision")
    connection.execute(table.update().where(table.c.key == key).values(values))
    audit(connection, actor, "enrollment.reject", row.device, key=key, reason=reason)
    emit(connection, "enrollment.decided", key, {"state": "rejected"})


def preapprove(connection: Connection, subjects: Iterable[str], actor: str) -> int:
    """Approves ahead: devices of these ids, or keys with these fingerprints, need nobody's approval, once each."""
    rows = [{"subject": subject, "created_at": time.time(), "created_by": actor} for subject in dict.fromkeys(subjects)]
    if rows:
        upsert(connection, tables.preapprovals, rows)
        audit(connection, actor, "enrollment.preapprove", f"{len(rows)} devices", subjects=[r["subject"] for r in rows])
    return len(rows)


def answer(connection: Connection, key: str) -> CertificateAnswer:
    """What is to be said about the request with this key; `finish` adds what surrounds a certificate."""
    table = tables.enrollments
    row = connection.execute(sa.select(table).where(table.c.key == key)).one()
    if row.state == "rejected":
        why = f": {row.reason}" if row.reason else ""
        return CertificateAnswer("rejected", key, detail=f"the operator turned the request down{why}")
    if row.state == "issued":
        certificates = tables.certificates
        newest = sa.select(certificates).where(certificates.c.key == key).order_by(certificates.c.issued_at.desc())
        found = connection.execute(newest).first()
        if found is not None and found.revoked_at is None:
            return CertificateAnswer("issued", key, row.device, found.pem)
        return CertificateAnswer("rejected", key, detail="its certificate was revoked")
    return CertificateAnswer("pending", key, detail=f"{row.device}: an operator has to approve the key {key[:12]}")


def finish(
    found: CertificateAnswer,
    authority: Authority,
    port: int,
    addresses: tuple[str, ...] = (),
    models_root: bytes = b"",
) -> CertificateAnswer:
    """An answer with all that a device needs to come in, and to know which models are the fleet's.

    Args:
        port, addresses: as `CertificateAnswer` has them.
        models_root: the newest root of the TUF metadata; one that is too long for a message is left out.
    """
    if found.state != "issued":
        return found
    chain = found.certificate + authority.issuing_pem
    root = models_root.decode()
    return CertificateAnswer(
        "issued",
        found.key,
        found.device,
        chain,
        authority.root_pem,
        port,
        addresses=addresses,
        models_root=root if len(root) <= LONGEST_ROOT else "",
    )


def sign_approved(connection: Connection, authority: Authority, most: int = 500) -> list[str]:
    """Signs what was approved; returns the keys, oldest first."""
    table = tables.enrollments
    query = sa.select(table).where(table.c.state == "approved").order_by(table.c.decided_at).limit(most)
    done = []
    for row in connection.execute(query).all():
        if row.replaces:
            _revoke_certificates(connection, row.device, "replaced")
        issued = authority.sign(read_request(row.csr), row.device)
        registry.add(connection, row.device, row.inventory, row.gateway)
        for name, value in row.labels.items():
            upsert(connection, tables.labels, {"device": row.device, "name": name, "value": value})
        _record(connection, issued)
        connection.execute(table.update().where(table.c.key == row.key).values(state="issued"))
        audit(connection, "fleet", "certificate.issue", row.device, serial=issued.serial, not_after=issued.not_after)
        registry.changed(connection, row.device)
        done.append(row.key)
    return done


def where_to(connection: Connection, key: str) -> tuple[str | None, str | None]:
    """The token, or the gateway, that waits for the answer to the request with this key."""
    table = tables.enrollments
    row = connection.execute(sa.select(table.c.token, table.c.gateway).where(table.c.key == key)).one()
    return row.token, row.gateway


def certified(connection: Connection, device: str) -> None:
    """A device has come in with its certificate: the token that it came by has done its work."""
    table, tokens = tables.enrollments, tables.tokens
    used = sa.select(table.c.token).where(table.c.device == device, table.c.state == "issued")
    query = tokens.update().where(tokens.c.id.in_(used), tokens.c.closed_at.is_(None))
    if connection.execute(query.values(closed_at=time.time())).rowcount:
        emit(connection, "token.changed", device, {})


def renew(connection: Connection, authority: Authority, device: str, message: CertificateRequest) -> CertificateAnswer:
    """A device that is let in asks for its next certificate, or repeats that.

    That it is let in is the broker's word. It does not do: the broker may be somebody else's, and the session that of a
    copy whose certificate is being taken back. The key of a certificate that is good now has to vouch for the next one.

    Raises:
        Refused: the request is malformed, nothing vouches for its key, which may belong to another device, or the
            device is revoked or has renewed too often.
    """
    checked = read_request(message.csr)
    state = connection.scalar(sa.select(tables.devices.c.state).where(tables.devices.c.id == device))
    if state != "active":
        raise Refused(f"{device}: not an active device of this fleet")
    table, now = tables.certificates, time.time()
    for row in connection.execute(sa.select(table).where(table.c.key == checked.key)).all():
        if row.device != device or row.revoked_at is not None:
            raise Refused("certificate request: the key is not one for this device")
        # A repeated request: the first answer did not arrive, or came a moment ago.
        if now - row.issued_at < (row.not_after - row.issued_at) / 3:
            return CertificateAnswer("issued", checked.key, device, row.pem)
    newest = sa.select(sa.func.count()).where(table.c.device == device, table.c.issued_at > now - _RENEWALS_SECONDS)
    if (connection.scalar(newest) or 0) > _MOST_RENEWALS:
        raise Refused(f"{device}: has had {_MOST_RENEWALS} certificates within a day: the next one tomorrow")
    if not _vouched(connection, device, checked, message.vouched):
        raise Refused(f"{device}: no key of its present certificates vouches for the new one")
    issued = authority.sign(checked, device)
    _record(connection, issued)
    audit(connection, device, "certificate.renew", device, serial=issued.serial, not_after=issued.not_after)
    return CertificateAnswer("issued", checked.key, device, issued.pem)


def _vouched(connection: Connection, device: str, checked: Request, signature: str) -> bool:
    table = tables.certificates
    query = sa.select(table.c.pem).where(
        table.c.device == device, table.c.revoked_at.is_(None), table.c.not_after > time.time()
    )
    for pem in connection.scalars(query.order_by(table.c.issued_at.desc())):
        key = x509.load_pem_x509_certificate(pem.encode()).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        with contextlib.suppress(InvalidSignature):
            key.verify(bytes.fromhex(signature), renewal_statement(checked.der), ec.ECDSA(hashes.SHA256()))
            return True
    return False


def revoke(connection: Connection, device: str, actor: str, reason: str = "") -> int:
    """Takes all certificates of a device back, and of the boards behind it; they are refused and disconnected.

    Returns:
        How many certificates.

    Raises:
        FleetError: there is no such device.
    """
    registry.describe(connection, device)
    table = tables.devices
    boards = connection.scalars(sa.select(table.c.id).where(table.c.gateway == device, table.c.state == "active")).all()
    count = sum(revoke(connection, board, actor, reason or f"with {device}") for board in boards)
    connection.execute(table.update().where(table.c.id == device).values(state="revoked", online=False))
    count += _revoke_certificates(connection, device, reason)
    audit(connection, actor, "device.revoke", device, reason=reason)
    registry.changed(connection, device)
    return count


def _revoke_certificates(connection: Connection, device: str, reason: str) -> int:
    table = tables.certificates
    query = table.update().where(table.c.device == device, table.c.revoked_at.is_(None))
    count = connection.execute(query.values(revoked_at=time.time(), reason=reason)).rowcount
    emit(connection, "certificate.revoked", device, {"reason": reason})
    return count


def revoked(connection: Connection) -> list[tuple[str, float]]:
    """Serial and time of every revoked certificate that has not expired anyway."""
    table = tables.certificates
    query = sa.select(table.c.serial, table.c.revoked_at).where(
        table.c.revoked_at.is_not(None), table.c.not_after > time.time() - 86400
    )
    return [(row.serial, row.revoked_at) for row in connection.execute(query)]


def _record(connection: Connection, issued: Issued) -> None:
    row = {**issued.__dict__, "issued_at": time.time()}
    connection.execute(tables.certificates.insert(), row)
