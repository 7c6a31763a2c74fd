"""What the ledger's two lists are held to, and shorter waits of the job that makes partitions."""

from ledger.migrations import run_sql

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_sql("0008_lists.up.sql")


def downgrade() -> None:
    run_sql("0008_lists.down.sql")
