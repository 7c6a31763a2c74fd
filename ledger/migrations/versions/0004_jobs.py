"""Background jobs: procrastinate's own schema, as the installed version brings it.

The version is pinned in pyproject.toml to one schema. A later one comes with a migration of ours that runs the
library's own migration files between the two.
"""

from alembic import op
from procrastinate.schema import SchemaManager

from ledger.migrations import run_sql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # psycopg itself, without parameters: several statements at once, and % is just a character.
    op.get_bind().connection.driver_connection.execute(SchemaManager.get_schema())  # type: ignore[union-attr]


def downgrade() -> None:
    run_sql("0004_jobs.down.sql")
