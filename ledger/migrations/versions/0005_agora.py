"""Who Agora says is in a call's channel."""

from ledger.migrations import run_sql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_sql("0005_agora.up.sql")


def downgrade() -> None:
    run_sql("0005_agora.down.sql")
