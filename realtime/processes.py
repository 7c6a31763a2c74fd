"""The server as several processes behind one port, and the parent that keeps them.

The parent starts the embedded servers and migrates once, reserves the port, then starts the workers: each is
`python -m realtime web` again, told its place among the others. They bind the port themselves (SO_REUSEPORT), so the
kernel spreads connections over those that live, and what one worker accepts is lost to nobody else; a connection that
belongs to a session elsewhere is passed on (`fanout/siblings.py`). The parent carries no traffic.

Parent and worker hold the two ends of a line. The worker says on it that it serves, or in one sentence why it cannot;
its end is how the other notices: a worker whose parent has been killed drains and leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from realtime.adapters import metrics
from realtime.composition import StartFailed, stop_on_signals
from realtime.config import Settings

log = structlog.get_logger()

SETTLED_AFTER_S = 30.0
"""A worker that has lived this long is taken for sound: its end is not counted as one more failure to start."""
LONGEST_PAUSE_S = 30.0
STOP_WITHIN_S = 30.0
READY = "ready"


def pause_before_restart_s(short_lives: int) -> float:
    """How long to wait, after so many short lives in a row, before the next: at once the first time, then doubling."""
    return 0.0 if short_lives <= 1 else min(2.0 ** (short_lives - 2), LONGEST_PAUSE_S)


# -- the worker's side ---------------------------------------------------------------------------------------------


class Place:
    """A worker's place among the processes behind the port."""

    def __init__(self, number: int, directory: Path, line_descriptor: int) -> None:
        self.number = number
        self.directory = directory
        self._line = socket.socket(fileno=line_descriptor)
        self._line.set_inheritable(False)
        self.told = False
        self._alone = False

    def serves(self) -> None:
        self._tell(READY)

    def cannot_serve(self, why: str) -> None:
        self._tell(why)

    def _tell(self, what: str) -> None:
        self.told = True
        with contextlib.suppress(OSError):  # the parent has gone
            self._line.sendall(json.dumps(what).encode() + b"\n")

    def when_alone(self, act: Callable[[], None]) -> None:
        """Call `act` when the parent has gone."""
        loop = asyncio.get_running_loop()

        def at_end() -> None:
            loop.remove_reader(self._line)
            self._alone = True
            act()

        loop.add_reader(self._line, at_end)

    def leave(self) -> None:
        """Take away what the processes shared, if there is no parent any more to do it."""
        if self._alone:
            shutil.rmtree(self.directory, ignore_errors=True)


# -- the parent's side ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Worker:
    """One of the processes. `number` stays when it is started again."""

    number: int
    process: asyncio.subprocess.Process | None = None
    line: asyncio.StreamWriter | None = None
    started_at: float = 0.0
    short_lives: int = 0

    def ended(self, now: float) -> None:
        self.short_lives = self.short_lives + 1 if now - self.started_at < SETTLED_AFTER_S else 0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.alive:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)


async def run_workers(settings: Settings, given: Settings) -> None:
    """Keep `settings.workers` processes serving until SIGTERM or Ctrl-C, then drain them all.

    `given` are the settings before embedded servers took the place of missing ones: what differs is passed on. Raises
    StartFailed when one of them cannot serve from the start.
    """
    stopping = stop_on_signals()
    environment = {**os.environ, **changed(given, settings)}
    with (
        reserved(settings.host, settings.port) as port,
        tempfile.TemporaryDirectory(prefix="callmeter-", ignore_cleanup_errors=True) as directory,
        metrics.shared_directory(environment, directory),
    ):
        environment["PORT"] = str(port)
        crew = _Crew(environment, Path(directory), [Worker(number + 1) for number in range(settings.workers)])
        try:
            if await crew.start(stopping):
                log.info("serving", url=f"http://{settings.host}:{port}", workers=settings.workers)
                await crew.keep(stopping)
        finally:
            await crew.stop()
    log.info("stopped")


@dataclass(slots=True)
class _Crew:
    environment: dict[str, str]
    directory: Path
    workers: list[Worker]
    _keepers: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self, stopping: asyncio.Event) -> bool:
        """All at once; False if they are to stop already. Raises StartFailed with what the first of them says."""
        starts = [asyncio.create_task(self._start(worker)) for worker in self.workers]
        stop = asyncio.create_task(stopping.wait())
        try:
            pending: set[asyncio.Task[Any]] = {*starts, stop}
            while not stop.done() and not all(start.done() for start in starts):
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for start in done - {stop}:
                    start.result()
            return not stop.done()
        finally:
            for task in (*starts, stop):
                task.cancel()
            await asyncio.gather(*starts, stop, return_exceptions=True)

    async def _start(self, worker: Worker) -> None:
        ours, theirs = socket.socketpair()
        place = {"number": worker.number, "directory": self.directory, "line": theirs.fileno()}
        told = [part for name, value in place.items() for part in (f"--worker-{name}", str(value))]
        worker.started_at = time.monotonic()
        # In a session of its own: Ctrl-C reaches the parent, which lets it drain.
        with theirs:
            try:
                worker.process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "realtime", "web", *told, env=self.environment,
                    stdin=asyncio.subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True,
                )  # fmt: skip
            except BaseException:
                ours.close()
                raise
        said, worker.line = await asyncio.open_connection(sock=ours)
        answer = await said.readline()
        if not answer:
            code = await worker.process.wait()
            raise StartFailed(f"worker {worker.number} ended before it served", _how(code))
        if (what := json.loads(answer)) != READY:
            raise StartFailed(f"worker {worker.number} cannot serve", what)

    async def keep(self, stopping: asyncio.Event) -> None:
        """Start again whoever ends, until `stopping`."""
        self._keepers = [asyncio.create_task(self._keep(worker)) for worker in self.workers]
        await stopping.wait()
        log.info("draining")

    async def _keep(self, worker: Worker) -> None:
        while True:
            assert worker.process is not None
            code = await worker.process.wait()
            self._bury(worker)
            worker.ended(time.monotonic())
            pause_s = pause_before_restart_s(worker.short_lives)
            log.error("a worker ended and is started again", ended=_how(code), number=worker.number, in_s=pause_s)
            await asyncio.sleep(pause_s)
            try:
                await self._start(worker)
            except (StartFailed, OSError) as error:
                log.error("a worker cannot be started", why=str(error), number=worker.number)
                worker.signal(signal.SIGTERM)
            else:
                log.info("a worker serves again", number=worker.number)

    def _bury(self, worker: Worker) -> None:
        assert worker.process is not None
        metrics.forget_process(worker.process.pid, self.environment[metrics.DIRECTORY])
        if worker.line is not None:
            worker.line.close()

    async def stop(self) -> None:
        """SIGTERM to all, who drain; what has not ended after that is killed."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for worker in self.workers:
            worker.signal(signal.SIGTERM)
        ends = [asyncio.create_task(worker.process.wait()) for worker in self.workers if worker.process is not None]
        if ends and (await asyncio.wait(ends, timeout=STOP_WITHIN_S))[1]:
            for worker in self.workers:
                if worker.alive:
                    log.error("a worker did not stop and is killed", number=worker.number)
                worker.signal(signal.SIGKILL)
            await asyncio.wait(ends)
        for worker in self.workers:
            if worker.line is not None:
                worker.line.close()


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def changed(before: Settings, after: Settings) -> Mapping[str, str]:
    """What differs, as environment variables."""
    names = type(after).model_fields
    values = {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}
    return {name.upper(): ",".join(v) if isinstance(v, tuple) else str(v) for name, v in values.items()}


@contextlib.contextmanager
def reserved(host: str, port: int) -> Iterator[int]:
    """Hold the port for the workers; answers its number, which is a free one for 0. Raises StartFailed.

    Nobody else may have it (workers could share it with strangers without noticing), and it stays taken while every
    worker is being started again. A socket that is bound and does not listen gets no connections.
    """
    with contextlib.ExitStack() as stack:
        try:
            addresses = dict.fromkeys(
                (family, address)
                for family, _, _, _, address in socket.getaddrinfo(
                    host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                )
            )
            for family, address in addresses:
                with _bound(family, (address[0], port, *address[2:]), shared=False) as alone:
                    port = alone.getsockname()[1]
                stack.enter_context(_bound(family, (address[0], port, *address[2:]), shared=True))
        except OSError as error:
            raise StartFailed(f"HOST, PORT: {host}:{port} cannot be listened on", error) from error
        yield port


def _bound(family: int, address: tuple[Any, ...], *, shared: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except BaseException:
        made.close()
        raise
    return made
