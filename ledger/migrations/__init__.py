"""The schema's history, and the three commands on it: up, down, status.

A revision is `versions/NNNN_name.py` (a few lines: its number, the one before, `run_sql` up and down) beside
`NNNN_name.up.sql` and `NNNN_name.down.sql`; the first is in parts, `0001_ledger_1_ids.up.sql` and on. One command runs
in one transaction under an advisory lock: killed in the middle it leaves nothing, and a second process waits and then
finds everything done.

The schema is the first one of the URL's search_path, made if it does not exist. SQL files never name it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic import command, op
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from ledger.database_url import DatabaseUrl

HERE = Path(__file__).parent
# Any two migrating processes agree on this number; the second key is the schema.
ADVISORY_LOCK = 0x6C656467


@dataclass(frozen=True)
class Status:
    """Where the schema stands: `current` is None before the first migration."""

    current: str | None
    head: str
    pending: tuple[str, ...]


def up(url: str, revision: str = "head") -> Status:
    """Brings the schema to `revision`. Raises what PostgreSQL raised, with nothing changed, if a step fails."""
    with _locked(url) as (config, connection):
        command.upgrade(config, revision)
        return _status(config, connection)


def down(url: str, revision: str = "base") -> Status:
    """Takes the schema back to `revision`; to "base" it also removes Alembic's own table."""
    with _locked(url) as (config, connection):
        # A schema nobody migrated has nothing to take down.
        if _status(config, connection).current is not None:
            command.downgrade(config, revision)
        if revision == "base":
            connection.execute(text("DROP TABLE IF EXISTS alembic_version"))
        return _status(config, connection)


def status(url: str) -> Status:
    """Reads where the schema stands; changes nothing."""
    engine = create_engine(DatabaseUrl.parse(url).for_sqlalchemy(), poolclass=NullPool)
    with _raised_as_by_psycopg(), engine.connect() as connection:
        return _status(_config(), connection)


def run_sql(file_name: str) -> None:
    """Runs a file of `versions/` as it stands, many statements and all, inside a revision."""
    sql = (HERE / "versions" / file_name).read_text(encoding="utf-8")
    # psycopg itself, without parameters: several statements at once, and % is just a character.
    op.get_bind().connection.driver_connection.execute(sql)  # type: ignore[union-attr]


@contextmanager
def _locked(url: str) -> Iterator[tuple[Config, Connection]]:
    database = DatabaseUrl.parse(url)
    engine = create_engine(database.for_sqlalchemy(), poolclass=NullPool)
    with _raised_as_by_psycopg(), engine.begin() as connection:
        schema = database.schema or "public"
        connection.execute(
            text("SELECT pg_advisory_xact_lock(:lock, hashtext(:schema))"), {"lock": ADVISORY_LOCK, "schema": schema}
        )
        if not connection.execute(text("SELECT to_regnamespace(quote_ident(:schema))"), {"schema": schema}).scalar():
            connection.execute(text(f"CREATE SCHEMA {_quoted(schema)}"))
        config = _config()
        config.attributes["connection"] = connection
        yield config, connection


@contextmanager
def _raised_as_by_psycopg() -> Iterator[None]:
    """SQLAlchemy wraps errors of what it does by itself, connecting among them, and not those of `run_sql`."""
    try:
        yield
    except DBAPIError as error:
        raise error.orig or error from None


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(HERE).replace("%", "%%"))
    return config


def _status(config: Config, connection: Connection) -> Status:
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head()
    assert head is not None
    current = MigrationContext.configure(connection).get_current_revision()
    pending = tuple(script.revision for script in scripts.iterate_revisions(head, current or "base"))
    return Status(current=current, head=head, pending=tuple(reversed(pending)))


def _quoted(identifier: str) -> str:
    return '"' + re.sub('"', '""', identifier) + '"'
