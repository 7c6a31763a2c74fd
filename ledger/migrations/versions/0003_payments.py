"""Money in: idempotency keys, purchases, refunds, disputes, the daily allowance and the provider's events."""

from ledger.migrations import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql("0003_payments.up.sql")


def downgrade() -> None:
    run_sql("0003_payments.down.sql")
