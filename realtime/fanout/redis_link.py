"""One connection to Redis, as a protocol of the event loop.

What a read brings is parsed at once (hiredis) and handed on whole, as one list of answers: no task, no queue and no
future for each, which is most of what a message costs in a general client. Whoever holds the link counts the answers.
Nothing connects again by itself: `lost` is done when the connection is over, and the holder makes the next one, with a
`Backoff` between its tries.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

CONNECT_TIMEOUT_S = 5.0
SHORTEST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


class RedisError(Exception):
    """Redis answered with an error."""


class Link(asyncio.Protocol):
    """What a read brings goes to `on_replies`, but for the answer that `ask` waits for; `lost` is done at the end."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self.on_replies: Callable[[list[Any]], None] | None = None
        self._asked: asyncio.Future[Any] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        replies = []
        try:
            while (reply := self._reader.gets()) is not False:
                replies.append(reply)
        except hiredis.HiredisError:
            self.abort()
        if self._asked is not None and not self._asked.done() and replies:
            self._asked.set_result(replies.pop(0))
        if replies and self.on_replies is not None:
            self.on_replies(replies)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        if self._asked is not None and not self._asked.done():
            self._asked.set_exception(ConnectionError("Redis closed the connection"))

    def send(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    async def ask(self, *parts: bytes) -> Any:
        """One command and its answer, while nothing else is under way. Raises RedisError, ConnectionError."""
        if self.lost.done():
            raise ConnectionError("Redis closed the connection")
        self._asked = asyncio.get_running_loop().create_future()
        self.send(command(parts))
        try:
            reply = await self._asked
        finally:
            self._asked = None
        if isinstance(reply, hiredis.ReplyError):
            raise RedisError(str(reply))
        return reply

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Backoff:
    """Pauses between tries, each twice the last, and spread, so that not all instances come back at once."""

    def __init__(self) -> None:
        self._pause_s = SHORTEST_PAUSE_S

    def reset(self) -> None:
        self._pause_s = SHORTEST_PAUSE_S

    async def pause(self) -> None:
        await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311  (spreads the load)
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)


def command(parts: Sequence[bytes]) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


async def connect(url: str, name: str) -> Link:
    """Connect and log in. Raises OSError, RedisError, TimeoutError."""
    options: dict[str, Any] = {**parse_url(url)}
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        if path := options.get("path"):
            _, link = await loop.create_unix_connection(Link, path)
        else:
            tls = _tls(options) if options.get("connection_class") is SSLConnection else None
            host, port = options.get("host", "localhost"), options.get("port", 6379)
            _, link = await loop.create_connection(Link, host, port, ssl=tls)
        try:
            if password := options.get("password"):
                user = options.get("username")
                await link.ask(b"AUTH", *([user.encode()] if user else []), password.encode())
            with contextlib.suppress(RedisError):  # a courtesy to whoever reads CLIENT LIST
                await link.ask(b"CLIENT", b"SETNAME", name.encode())
        except BaseException:
            link.abort()
            raise
    return link


def _tls(options: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_cert_reqs") in ("none", "optional"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def server_named(url: str) -> str:
    """The URL without what is secret in it."""
    parts = urlsplit(url)
    return parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
