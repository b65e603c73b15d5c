"""What is published, as the registry has it: written beside the TUF repository, read by rollouts and by semantics."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from edge.fleet.errors import FleetError, Refused
from edge.fleet.server.database import Database, audit, emit
from edge.fleet.server.updates.plan import read_variants
from edge.fleet.server.updates.source import Source
from edge.fleet.server.updates.tables import OPEN, models, rollouts
from edge.fleet.variant import Variant
from edge.runtime.errors import BadInput


def publish_model(database: Database, variants: list[Variant], manifest: dict[str, Any], actor: str) -> None:
    """Writes down what was published, beside what is published of the same version already.

    Raises:
        FleetError: the variants are of different versions.
    """
    if len({(variant.model, variant.version) for variant in variants}) != 1:
        raise FleetError("publish: the variants are not of one version")
    first = variants[0]
    with database.transaction() as connection:
        key = (models.c.name == first.model) & (models.c.version == first.version)
        held = connection.execute(sa.select(models.c.variants).where(key)).scalar()
        rows = {row["path"]: row for row in (held or [])}
        rows.update({variant.path: variant.to_dict() for variant in variants})
        values = {"variants": list(rows.values()), "sequence": first.sequence}
        if held is None:
            row = {"name": first.model, "version": first.version, "manifest": manifest, "published_by": actor}
            connection.execute(models.insert(), {**row, **values, "published_at": time.time()})
        else:
            connection.execute(models.update().where(key).values(**values))
        body = {"name": first.model, "version": first.version, **values, "manifest": manifest}
        emit(connection, "model.published", f"{first.model}:{first.version}", body)
        audit(connection, actor, "model.publish", f"{first.model}:{first.version}", paths=sorted(rows))


def published(database: Database) -> list[dict[str, Any]]:
    """Every version: its row without the manifest, by name, the newest first."""
    columns = [column for column in models.c if column.name != "manifest"]
    query = sa.select(*columns).order_by(models.c.name, models.c.sequence.desc())
    with database.reading() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def find_version(database: Database, text: str) -> tuple[str, str]:
    """The model and version that `kws:2.1` names; `kws` is its newest version.

    Raises:
        BadInput: it is not published; the message lists what is.
    """
    name, colon, version = text.partition(":")
    rows = published(database)
    for row in rows:
        if row["name"] == name and (not colon or row["version"] == version):
            return name, row["version"]
    known = ", ".join(f"{row['name']}:{row['version']}" for row in rows[:10]) or "nothing"
    raise BadInput(f"{text[:100]}: is not published; {known} is")


def withdraw(database: Database, source: Source, model: str, version: str, actor: str) -> None:
    """Takes a version out of the repository and the store. Devices that run it keep it.

    Raises:
        Refused: a rollout of it is open.
    """
    with database.transaction() as connection:
        open_ = connection.execute(
            sa.select(rollouts.c.id).where(
                rollouts.c.model == model, rollouts.c.version == version, rollouts.c.state.in_(OPEN)
            )
        ).scalar()
        if open_ is not None:
            raise Refused(f"{model}:{version}: rollout {open_} is open: abort it first")
        key = (models.c.name == model) & (models.c.version == version)
        variants = read_variants(connection.execute(sa.select(models.c.variants).where(key)).scalar() or [])
        # Signed first: what is gone from the metadata is asked for by nobody.
        source.repository.remove(variant.path for variant in variants)
        connection.execute(models.delete().where(key))
        emit(connection, "model.removed", f"{model}:{version}", {"name": model, "version": version})
        audit(connection, actor, "model.withdraw", f"{model}:{version}")
    needed = {blob.sha256 for variant in source.repository.variants().values() for blob in _blobs(variant)}
    for blob in {blob for variant in variants for blob in _blobs(variant)}:
        if blob.sha256 not in needed:
            source.store.remove(blob.sha256)


def _blobs(variant: Variant) -> list[Any]:
    return [variant.blob, *([variant.reference] if variant.reference is not None else [])]
