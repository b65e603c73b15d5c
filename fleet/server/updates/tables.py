"""The tables of updates: what is published, the rollouts, and how far each device of one has come."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Connection, Double, ForeignKey, Index, Integer, Table, Text

from edge.fleet.server.tables import metadata

OPEN = ("running", "paused", "rolling-back")
"""States of a rollout in which something may still happen."""

models = Table(
    "models",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("sequence", Integer, nullable=False),
    Column("variants", JSON, nullable=False),  # of edge.fleet.variant.Variant
    Column("manifest", JSON, nullable=False),  # of the bundle
    Column("published_at", Double, nullable=False),
    Column("published_by", Text, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("model", Text, nullable=False, index=True),
    Column("version", Text, nullable=False),
    Column("plan", JSON, nullable=False),  # of edge.fleet.server.updates.plan.Plan
    # running, paused, done, aborted, rolling-back, rolled-back
    Column("state", Text, nullable=False, index=True),
    Column("phase", Integer, nullable=False),  # counts from 0
    Column("reason", Text, nullable=False, default=""),
    Column("created_at", Double, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("updated_at", Double, nullable=False),
)

rollout_devices = Table(
    "rollout_devices",
    metadata,
    Column("rollout", Text, ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    # No reference: what a rollout was stays true when a device is forgotten.
    Column("device", Text, primary_key=True),
    # waiting, started, staged, active, failed, rolled-back, silent, cancelled, unfit, reverting, reverted, stuck
    Column("state", Text, nullable=False),
    Column("rank", Integer, nullable=False),  # who starts first
    Column("target", Text, nullable=False, default=""),  # TUF path of the variant that fits
    Column("before", Text, nullable=False, default=""),  # TUF path of what was active; "" if that is not published
    Column("phase", Integer),
    Column("job", Text, index=True),
    Column("detail", Text, nullable=False, default=""),
    Column("metrics", JSON, nullable=False, default=dict),
    Column("deadline", Double),
    Column("updated_at", Double, nullable=False),
    Index("rollout_devices_by_state", "rollout", "state", "rank"),
)


def create(connection: Connection) -> None:
    """The migration that makes them."""
    metadata.create_all(connection, tables=[models, rollouts, rollout_devices])
