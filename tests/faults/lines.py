"""TCP lines that a test cuts, holds, slows and mends.

They run on a thread with an event loop of its own, so that neither a busy test nor one that waits for a process is
itself a fault. A line that is cut refuses and resets connections, as a dead host's router does; one that is held
takes connections and lets nothing through, as a network that drops packets does.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Lines:
    """The thread all lines run on."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lines", daemon=True)
        self._thread.start()
        self._open: list[Line] = []

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(step, self._loop).result(10)

    def to(self, port: int, host: str = "127.0.0.1") -> Line:
        """A new line to a port of this machine; a host that is a directory has PostgreSQL's socket of that port."""
        line = Line(self, host, port)
        line.mend()
        self._open.append(line)
        return line

    def close(self) -> None:
        for line in self._open:
            line.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


class Line:
    def __init__(self, lines: Lines, host: str, port: int) -> None:
        self._lines = lines
        self._to = (host, port)
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._flows: asyncio.Event = lines.run(_event())
        self._delay_s = 0.0
        self.port = 0

    @property
    def ends(self) -> int:
        """Those of the connections there are, on either side."""
        return len(self._ends)

    def mend(self, *, held: bool = False) -> None:
        """Connections are taken again; `held`, and nothing passes yet."""
        self._delay_s = 0.0
        self._lines.run(self._mend(held))

    def cut(self) -> None:
        self._lines.run(self._cut())

    def hold(self) -> None:
        """Nothing passes, and nobody is told."""
        self._lines.run(self._hold())

    def slow(self, delay_s: float) -> None:
        """Whatever passes takes this much longer, each way."""
        self._delay_s = delay_s

    async def _mend(self, held: bool) -> None:
        if held:
            self._flows.clear()
        else:
            self._flows.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _hold(self) -> None:
        self._flows.clear()

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for end in list(self._ends):
            end.transport.abort()
        self._flows.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:  # taken a moment before the cut, which did not know of it yet
            writer.transport.abort()
            return
        ends = {writer}
        self._ends.add(writer)
        with contextlib.suppress(OSError):
            await self._flows.wait()
            there_reader, there_writer = await self._reach()
            ends.add(there_writer)
            self._ends.add(there_writer)
            await asyncio.gather(self._copy(reader, there_writer), self._copy(there_reader, writer))
        for end in ends:
            end.transport.abort()
        self._ends -= ends

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self._to
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._flows.wait()
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                writer.write(data)
                await writer.drain()
            await self._flows.wait()
        writer.close()


async def _event() -> asyncio.Event:
    return asyncio.Event()
