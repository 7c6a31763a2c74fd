"""The double-entry ledger: accounts, journals, entries and the audit log."""

from ledger.migrations import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql("0001_ledger.up.sql")


def downgrade() -> None:
    run_sql("0001_ledger.down.sql")
