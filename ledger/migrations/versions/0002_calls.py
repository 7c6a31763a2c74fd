"""Calls, who is in one, and the meter."""

from ledger.migrations import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql("0002_calls.up.sql")


def downgrade() -> None:
    run_sql("0002_calls.down.sql")
