"""Audit rows of postings whose own hash covers which journals they are of."""

from ledger.migrations import run_sql

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_sql("0009_audit_names.up.sql")


def downgrade() -> None:
    run_sql("0009_audit_names.down.sql")
