"""A PostgreSQL to measure: an embedded one of its own, or a new database on the server that is given.

The server is as a careful operator would run it: `fsync`, `synchronous_commit` and `full_page_writes` are on. Only the
log it may write between two checkpoints is larger than the default, so that short runs measure no checkpoints.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
from psycopg import sql

from ledger import migrations
from ledger.database_url import DatabaseUrl
from ledger.embedded_postgres import EmbeddedPostgres

# On the disk that the project is on: a temporary folder may be memory, where fsync costs nothing.
DATA = Path(".data")
SETTINGS = {"max_wal_size": "16GB", "checkpoint_timeout": "30min", "wal_level": "replica"}
DURABILITY = ("fsync", "synchronous_commit", "full_page_writes")
REPORTED = (*DURABILITY, "server_version", "shared_buffers", "max_wal_size", "wal_sync_method")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The option that every benchmark with a database has."""
    parser.add_argument(
        "--database-url",
        help="a PostgreSQL server on which a database may be made and dropped (default: an embedded one of its own)",
    )


@contextmanager
def server(database_url: str | None) -> Iterator[str]:
    """The URL of a server: the given one, or an embedded one that is stopped and removed afterwards."""
    if database_url:
        yield database_url
        return
    data = (DATA / f"bench-{uuid4().hex[:8]}").absolute()
    embedded = EmbeddedPostgres(data / "postgres")
    try:
        url = embedded.start()
        with psycopg.connect(url, autocommit=True) as conn:
            for name, value in SETTINGS.items():
                conn.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
            conn.execute("SELECT pg_reload_conf()")
        yield url
    finally:
        embedded.stop()
        shutil.rmtree(data, ignore_errors=True)


@contextmanager
def database(server_url: str, *, migrated: bool = True) -> Iterator[str]:
    """The URL of a new database on the server, with the project's schema, dropped afterwards."""
    name = f"callmeter_bench_{uuid4().hex[:12]}"
    with _administering(server_url) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    try:
        if migrated:
            migrations.up(url)
        yield url
    finally:
        with _administering(server_url) as conn:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def settings(server_url: str) -> dict[str, Any]:
    """What the server runs with. Raises SystemExit if it does not keep what it commits: figures would say nothing."""
    with _administering(server_url) as conn:
        found = dict(conn.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(REPORTED)]))
    if off := [name for name in DURABILITY if found[name] == "off"]:
        raise SystemExit(f"bench: the server has {', '.join(off)} off")
    return found


def _administering(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(DatabaseUrl.parse(url).for_psycopg(), autocommit=True)
