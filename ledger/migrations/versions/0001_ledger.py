"""The double-entry ledger: accounts, journals, entries and the audit log."""

from ledger.migrations import run_sql

revision = "0001"
down_revision = None

PARTS = ("1_ids", "2_accounts", "3_journals", "4_audit_log", "5_guards", "6_partitions", "7_posting")


def upgrade() -> None:
    for part in PARTS:
        run_sql(f"0001_ledger_{part}.up.sql")


def downgrade() -> None:
    run_sql("0001_ledger.down.sql")
