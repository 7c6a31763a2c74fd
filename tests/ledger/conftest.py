"""A ledger full of events, made once for all tests that only read it or roll back what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from ledger.database_url import DatabaseUrl
from tests.conftest import new_database
from tests.ledger import busy


@pytest.fixture(scope="module")
def busy_ledger_url(postgres_server_url: str, template_database: str) -> Iterator[str]:
    for url in new_database(postgres_server_url, template_database):
        asyncio.run(busy.fill(url))
        yield url


@pytest.fixture(scope="module")
def busy_connection(busy_ledger_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(DatabaseUrl.parse(busy_ledger_url).for_psycopg()) as conn:
        yield conn


@pytest.fixture
def busy_ledger(busy_connection: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """A superuser's transaction on it, rolled back after the test."""
    with busy_connection.transaction(force_rollback=True):
        yield busy_connection
