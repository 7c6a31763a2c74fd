"""Databases for tests: real PostgreSQL, a fresh migrated database for each test.

`postgres_server_url` (session)  the server: TEST_DATABASE_URL, else one embedded server for the run and its workers
`database_url`                   a new database with every migration applied, cloned from a template, dropped afterwards
`empty_database_url`             the same without any migration
`db`                             an asyncpg connection to `database_url`
`line`                           a line to the server, to be cut
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

# Hypothesis imports it in the middle of a test, and pytest then rewrites its asserts deep in a stack, where the parser
# of Python 3.11 now and then says "AST constructor recursion depth mismatch".
import hypothesis.internal.conjecture.optimiser  # noqa: F401
import psycopg
import pytest
from psycopg import sql

from ledger import migrations
from ledger.database_url import DatabaseUrl
from ledger.embedded_postgres import EmbeddedPostgres
from tests.faults.lines import Line, Lines

pytest_plugins = ["tests.servers", "tests.faults.table"]

RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid4().hex
TEMPLATE = f"callmeter_template_{RUN[:12]}"


@pytest.fixture(scope="session")
def postgres_server_url() -> Iterator[str]:
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    # Every xdist worker holds a handle on the same server; the last one to leave stops it.
    data_dir = _where_files_are_quick() / f"callmeter-test-{RUN[:12]}" / "postgres"
    server = EmbeddedPostgres(data_dir)
    url = server.start()
    # Nothing here has to survive a power cut.
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("ALTER SYSTEM SET fsync = off")
        conn.execute("ALTER SYSTEM SET full_page_writes = off")
        conn.execute("SELECT pg_reload_conf()")
    yield url
    server.stop()
    if not (data_dir / "postmaster.pid").exists():
        shutil.rmtree(data_dir.parent, ignore_errors=True)


def _where_files_are_quick() -> Path:
    """In memory where there is room: a database is hundreds of files, cloned in a tenth of the time a disk takes."""
    memory = Path("/dev/shm")  # in a container often 64 MB, which would not do
    room = shutil.disk_usage(memory).free if os.access(memory, os.W_OK) else 0
    return memory if room >= 4 << 30 else Path(tempfile.gettempdir())


@pytest.fixture(scope="session")
def template_database(postgres_server_url: str) -> Iterator[str]:
    """The name of a database with every migration applied, made by the first worker that needs it."""
    with _server(postgres_server_url) as conn:
        conn.execute("SELECT pg_advisory_lock(hashtext(%s))", [TEMPLATE])
        if not conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", [TEMPLATE]).fetchone():
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
            migrations.up(_with_database(postgres_server_url, TEMPLATE))
        conn.execute("SELECT pg_advisory_unlock(hashtext(%s))", [TEMPLATE])
    yield TEMPLATE
    # Another worker may still clone it; an embedded server takes it along when the last one stops it.
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    with _server(postgres_server_url) as conn, suppress(psycopg.errors.ObjectInUse):
        conn.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(TEMPLATE)))


@pytest.fixture
def database_url(postgres_server_url: str, template_database: str) -> Iterator[str]:
    yield from new_database(postgres_server_url, template_database)


@pytest.fixture
def empty_database_url(postgres_server_url: str) -> Iterator[str]:
    yield from new_database(postgres_server_url, "template1")


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(**DatabaseUrl.parse(database_url).for_asyncpg())
    yield conn
    await conn.close()


def new_database(server_url: str, template: str) -> Iterator[str]:
    """The URL of a new database, dropped when the generator goes on."""
    name = f"callmeter_test_{uuid4().hex[:16]}"
    with _server(server_url) as conn:
        # Copied as files, it costs half of what the default does, which writes each page to the log as well.
        clone = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        conn.execute(clone.format(sql.Identifier(name), sql.Identifier(template)))
    yield _with_database(server_url, name)
    with _server(server_url) as conn:
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _server(url: str) -> psycopg.Connection:
    return psycopg.connect(DatabaseUrl.parse(url).for_psycopg(), autocommit=True)


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@pytest.fixture
def line(postgres_server_url: str) -> Iterator[Line]:
    """A line to PostgreSQL, to be cut."""
    with psycopg.connect(DatabaseUrl.parse(postgres_server_url).for_psycopg()) as connection:
        host, port = connection.info.host, connection.info.port
    lines = Lines()
    yield lines.to(port, host)
    lines.close()
