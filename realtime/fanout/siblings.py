"""Processes behind one port: a connection goes to the process that has its session.

The kernel gives a new connection to any of them, and a browser that polls, or a proxy that keeps its connections open,
sends a session's requests over any connection. The id of a session begins with the tag of its process. A process that
reads a request for another's session passes on the connection itself, the file descriptor with the bytes that were
read, to that process's Unix socket, which is named after its tag. The answer comes straight from there, and the
connection stays there until a request on it belongs elsewhere again. Upgrades, polls and posts all go this way. Nothing
is proxied: a long poll costs nothing in between, and a client that hangs up is noticed by the process that cares.

Each message is one datagram, so it arrives whole or not at all; what is too long for one (a large post) lies in a file
without a name, whose descriptor goes along. A process that has died leaves its socket's file behind; who finds it dead
removes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import structlog

log = structlog.get_logger()

_SESSION_ID = re.compile(r"([A-Za-z0-9]{8})\.")
_MISPLACED = re.compile(rb"(?:GET|POST) [^ ?]*\?(?:[^ ]*?&)??sid=([A-Za-z0-9]{8})\.")
MOST_BYTES = 96 * 1024
"""Of a datagram: Linux takes 200 KB without being asked."""
GIVE_WITHIN_S = 5.0
TAKEN_A_TURN = 64

Accept = Callable[[socket.socket, bytes], None]


class Siblings:
    """The processes that share `directory`, which only they may read; this one is `tag`."""

    def __init__(self, directory: Path, tag: str) -> None:
        self._directory = directory
        self._tag = tag
        self._inbox: socket.socket | None = None
        self._accept: Accept | None = None

    # -- taking --------------------------------------------------------------------------------------------------

    def open(self, accept: Accept) -> None:
        """Call `accept` with each connection that is passed here, and what was read of it already."""
        self._accept = accept
        self._inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._inbox.setblocking(False)
        self._inbox.bind(str(self._directory / self._tag))
        asyncio.get_running_loop().add_reader(self._inbox, self._take)

    def close(self) -> None:
        if self._inbox is not None:
            asyncio.get_running_loop().remove_reader(self._inbox)
            self._inbox.close()
            self._inbox = None
            (self._directory / self._tag).unlink(missing_ok=True)

    def _take(self) -> None:
        for _ in range(TAKEN_A_TURN):
            if self._inbox is None or self._accept is None:
                return
            try:
                data, descriptors, _, _ = socket.recv_fds(self._inbox, MOST_BYTES, 2)
            except BlockingIOError:
                return
            except OSError:
                log.exception("a connection passed here was lost")
                return
            if not descriptors:
                continue  # the kernel had no descriptor left for it
            os.set_inheritable(descriptors[0], False)
            for file in descriptors[1:]:
                with open(file, "rb") as rest:  # noqa: PTH123  (a descriptor)
                    rest.seek(0)
                    data = rest.read()
            connection = socket.socket(fileno=descriptors[0])
            connection.setblocking(False)
            self._accept(connection, data)

    # -- giving --------------------------------------------------------------------------------------------------

    def owner_of(self, session_id: str) -> str | None:
        """The tag of the process that has or had this session; None when it is this one, or never was a session."""
        found = _SESSION_ID.match(session_id)
        return found[1] if found is not None and found[1] != self._tag else None

    def owner_in(self, head: bytes) -> str | None:
        """The same for the request that `head` begins with."""
        found = _MISPLACED.match(head)
        return self.owner_of(found[1].decode() + ".") if found is not None else None

    async def give(self, tag: str, descriptor: int, data: bytes) -> bool:
        """Pass on a connection, and `data`, which was read of it. Closes `descriptor`; False if nobody has taken it."""
        path = self._directory / tag
        try:
            with contextlib.ExitStack() as closing:
                descriptors = [descriptor]
                if len(data) > MOST_BYTES:
                    file = closing.enter_context(tempfile.TemporaryFile(dir=self._directory, buffering=0))
                    file.write(data)
                    descriptors.append(file.fileno())
                    data = b"\n"
                outbox = closing.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                outbox.setblocking(False)
                outbox.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MOST_BYTES)
                outbox.connect(str(path))
                async with asyncio.timeout(GIVE_WITHIN_S):
                    while True:
                        try:
                            socket.send_fds(outbox, [data], descriptors)
                        except BlockingIOError:  # it has ten to take already
                            await _writable(outbox)
                        else:
                            return True
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)  # it was killed
            return False
        except (OSError, TimeoutError):
            return False
        finally:
            os.close(descriptor)


async def _writable(outbox: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(outbox, tell)
    try:
        await ready
    finally:
        loop.remove_writer(outbox)
