"""What a person does to a call, in one statement."""

from ledger.migrations import run_sql

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_sql("0007_one_statement.up.sql")


def downgrade() -> None:
    run_sql("0007_one_statement.down.sql")
