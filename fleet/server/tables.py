"""The tables of the registry: the truth about a fleet, of which all else (RDF, broker, dashboards) is a projection.

Times are seconds since 1970, UTC, as float. JSON columns hold objects that passed their reader in `edge.fleet`.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
)

metadata = MetaData()

# SQLite numbers rows by itself only in a column of exactly this type.
RowNumber = BigInteger().with_variant(Integer, "sqlite")

devices = Table(
    "devices",
    metadata,
    Column("id", Text, primary_key=True),
    Column("state", Text, nullable=False),  # active, revoked
    Column("gateway", Text),  # the device behind which it lies
    Column("created_at", Double, nullable=False),
    Column("online", Boolean, nullable=False, default=False),
    Column("last_seen", Double),
    Column("inventory", JSON, nullable=False, default=dict),
    # The shadow: what the operator wants, what the device says it has, and when which changed.
    Column("desired", JSON, nullable=False, default=dict),
    Column("desired_version", Integer, nullable=False, default=0),
    Column("reported", JSON, nullable=False, default=dict),
    Column("reported_version", Integer, nullable=False, default=0),
)

labels = Table(
    "labels",
    metadata,
    Column("device", Text, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Index("labels_by_value", "name", "value"),
)

groups = Table(
    "groups",
    metadata,
    Column("name", Text, primary_key=True),
    Column("device", Text, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Index("groups_by_device", "device"),
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", Text, primary_key=True),  # hexadecimal
    Column("device", Text, nullable=False, index=True),
    Column("key", Text, nullable=False, index=True),  # fingerprint of the public key
    Column("not_before", Double, nullable=False),
    Column("not_after", Double, nullable=False),
    Column("pem", Text, nullable=False),
    Column("issued_at", Double, nullable=False),
    Column("revoked_at", Double),
    Column("reason", Text),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key", Text, nullable=False),  # SHA-256 of the secret, hexadecimal
    Column("password", Text, nullable=False),  # the secret as mosquitto keeps passwords
    Column("device", Text),  # the id that it is good for; any, if null
    Column("approve", Boolean, nullable=False, default=False),
    Column("labels", JSON, nullable=False, default=dict),
    Column("created_at", Double, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("used_at", Double),
    Column("used_by", Text),  # fingerprint of the key that used it
    Column("closed_at", Double),  # no longer good for anything
)

enrollments = Table(
    "enrollments",
    metadata,
    Column("key", Text, primary_key=True),  # fingerprint of the key for which a certificate is asked
    Column("token", Text, unique=True),
    Column("gateway", Text),  # instead of a token: the device that asks for its board
    Column("device", Text, nullable=False),  # the id that it asks for, or that the operator gave
    Column("csr", Text, nullable=False),
    Column("inventory", JSON, nullable=False, default=dict),
    Column("labels", JSON, nullable=False, default=dict),
    Column("state", Text, nullable=False, index=True),  # pending, approved, issued, rejected
    Column("replaces", Boolean, nullable=False, default=False),  # a device of that id exists
    Column("created_at", Double, nullable=False),
    Column("decided_at", Double),
    Column("decided_by", Text),
    Column("reason", Text),
)

preapprovals = Table(
    "preapprovals",
    metadata,
    Column("subject", Text, primary_key=True),  # a device's id or a key's fingerprint
    Column("created_at", Double, nullable=False),
    Column("created_by", Text, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("device", Text, ForeignKey("devices.id", ondelete="CASCADE"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("body", JSON, nullable=False, default=dict),
    Column("state", Text, nullable=False),  # queued, cancelled, and edge.fleet.messages.JOB_STATES
    Column("detail", Text, nullable=False, default=""),
    Column("metrics", JSON, nullable=False, default=dict),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("expires_at", Double),
    Index("jobs_by_device", "device", "state"),
)

# Every message that was acknowledged, until `Registry.prune`: its key is what drops repeats.
reports = Table(
    "reports",
    metadata,
    Column("device", Text, primary_key=True),
    Column("boot", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("kind", Text, nullable=False),  # "tel", "job/7f3a"
    Column("at", Double, nullable=False),  # the device's clock
    Column("received_at", Double, nullable=False),
    Column("body", Text, nullable=False),
    sqlite_with_rowid=False,
)
Index("reports_by_age", reports.c.received_at)

events = Table(
    "events",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=True),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", JSON, nullable=False),
    Column("at", Double, nullable=False),
    sqlite_autoincrement=True,  # an id is never given twice, whatever is pruned
)

audit = Table(
    "audit",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", JSON, nullable=False),
    Column("chain", Text, nullable=False),  # SHA-256 over the previous row's and this row
    sqlite_autoincrement=True,
)

settings = Table(
    "settings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", JSON, nullable=False),
)

migrations = Table(
    "migrations",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("at", Double, nullable=False),
)
