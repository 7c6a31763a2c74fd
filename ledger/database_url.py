"""Which database: DATABASE_URL of the environment or of `.env`, else the embedded server; and its URL for each driver.

psycopg (libpq) and asyncpg read the same URL differently. libpq refuses parameters it does not know, such as
`?search_path=foo`, and takes them in `options=-csearch_path=foo`; asyncpg sends every parameter it does not know to the
server, which refuses libpq's own, such as `channel_binding`. `DatabaseUrl` keeps the two kinds apart and writes both.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from dotenv import dotenv_values
from psycopg import pq

LIBPQ_KEYWORDS = frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())
# What asyncpg reads from a URL itself; other libpq keywords would reach the server as settings, and be refused.
ASYNCPG_KEYWORDS = LIBPQ_KEYWORDS & {
    *(
        "host",
        "port",
        "user",
        "password",
        "passfile",
        "dbname",
        "service",
        "servicefile",
        "sslmode",
        "sslcert",
        "sslkey",
    ),
    *("sslrootcert", "sslcrl", "sslpassword", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version"),
    *("target_session_attrs", "krbsrvname", "gsslib"),
}


class BadDatabaseUrl(ValueError):
    """The database URL cannot be used; the message is one line for the operator."""


@dataclass(frozen=True)
class DatabaseUrl:
    """A PostgreSQL URL taken apart: where to connect, libpq's parameters, and the server's settings."""

    base: str
    parameters: Mapping[str, str]
    settings: Mapping[str, str]

    @classmethod
    def parse(cls, url: str) -> DatabaseUrl:
        """Accepts postgres://, postgresql:// and SQLAlchemy's postgresql+driver://. Raises BadDatabaseUrl."""
        parts = urlsplit(url)
        if parts.scheme.split("+")[0] not in ("postgres", "postgresql"):
            raise BadDatabaseUrl(f"DATABASE_URL must begin with postgresql://, not {parts.scheme or 'nothing'!r}")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        settings = _settings_of_options(query.pop("options", ""))
        settings |= {name: value for name, value in query.items() if name not in LIBPQ_KEYWORDS}
        return cls(
            base=urlunsplit(("postgresql", parts.netloc, parts.path, "", "")),
            parameters={name: value for name, value in query.items() if name in LIBPQ_KEYWORDS},
            settings=settings,
        )

    @property
    def schema(self) -> str | None:
        """The first schema of the search_path; None when the URL names none."""
        for name in self.settings.get("search_path", "").split(","):
            if (schema := name.strip().strip('"')) and schema != "$user":
                return schema
        return None

    def for_psycopg(self) -> str:
        """For psycopg and everything else on libpq."""
        words = (f"-c{name}={value}" for name, value in self.settings.items())
        options = " ".join(word.replace("\\", "\\\\").replace(" ", "\\ ") for word in words)
        return _join(self.base, {**self.parameters, **({"options": options} if options else {})})

    def for_sqlalchemy(self) -> str:
        """For SQLAlchemy over psycopg 3."""
        return self.for_psycopg().replace("postgresql://", "postgresql+psycopg://", 1)

    def for_asyncpg(self) -> dict[str, Any]:
        """Keyword arguments of `asyncpg.connect` and `asyncpg.create_pool`."""
        settings = {**self.settings}
        if "application_name" in self.parameters:
            settings["application_name"] = self.parameters["application_name"]
        known = {name: value for name, value in self.parameters.items() if name in ASYNCPG_KEYWORDS}
        return {"dsn": _join(self.base, known), "server_settings": settings}


def from_environment(environ: Mapping[str, str] = os.environ, dotenv: Path = Path(".env")) -> str | None:
    """DATABASE_URL of the environment, else of `.env`, else None: then the embedded server is meant."""
    in_file = dotenv_values(dotenv).get("DATABASE_URL") if dotenv.is_file() else None
    return environ.get("DATABASE_URL") or in_file or None


@contextmanager
def opened() -> Iterator[str]:
    """The URL to work with for the length of a command: the configured one, or the embedded server's, which is attached
    to if it runs already and else started and stopped again."""
    if url := from_environment():
        DatabaseUrl.parse(url)
        yield url
        return
    from ledger.embedded_postgres import EmbeddedPostgres  # noqa: PLC0415  (an optional dependency)

    server = EmbeddedPostgres()
    try:
        yield server.start()
    finally:
        server.stop()


def _join(base: str, query: Mapping[str, str]) -> str:
    return base + ("?" + urlencode(query, quote_via=quote) if query else "")


def _settings_of_options(options: str) -> dict[str, str]:
    """libpq's `options` is a command line: -c name=value, -cname=value or --name=value."""
    settings: dict[str, str] = {}
    words = iter(shlex.split(options))
    for word in words:
        if word == "-c":
            word = "-c" + next(words, "")  # noqa: PLW2901
        name, equals, value = word.removeprefix("--").removeprefix("-c").partition("=")
        if not word.startswith(("-c", "--")) or not equals:
            raise BadDatabaseUrl(f"DATABASE_URL: options may hold -cname=value only, not {word!r}")
        settings[name.replace("-", "_")] = value
    return settings
