"""Processes that start in no time: forks of one that has imported all of ours.

Importing takes most of the time of a start, and the tests start hundreds. A fork is a process like any other, with a
pid, files and an end of its own; what it shares is what was imported before. How a start goes from nothing is tested
where `python -m realtime` is run as a command.

`python -m tests.nursery` reads a request a line and forks; it tells the pid, and the exit code when there is one. It
ends with its input, and what it started with it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import itertools
import json
import os
import resource
import runpy
import selectors
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
STARTS_WITHIN_S = 60.0
NULL = os.devnull


class Started:
    """A process of the nursery's, handled as one of `subprocess`."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid

    @property
    def returncode(self) -> int | None:
        return self._nursery.ended.get(self.pid)

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        with self._nursery.changed:
            if not self._nursery.changed.wait_for(lambda: self.returncode is not None, timeout):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        code = self.returncode
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended, and its end is not told yet
            if self.returncode is None:
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that forks, seen from the tests: one for each of theirs, started with the first request."""

    def __init__(self) -> None:
        self.ended: dict[int, int] = {}
        self.changed = threading.Condition()
        self._pids: dict[int, int] = {}
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, arguments: list[str], env: dict[str, str], log: Path, cwd: Path) -> Started:
        """As `python ARGUMENTS` would; `arguments` begin with `-m MODULE`. What it says is added to `log`."""
        flag, module, *rest = arguments
        assert flag == "-m"
        process = self._running()
        number = next(self._numbers)
        request = {"number": number, "module": module, "arguments": rest, "env": env, "log": str(log), "cwd": str(cwd)}
        request["files"] = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert process.stdin is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        with self.changed:
            assert self.changed.wait_for(lambda: number in self._pids, STARTS_WITHIN_S), "the nursery does not answer"
        return Started(self, self._pids[number])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.nursery"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            threading.Thread(target=self._listen, args=[self._process], name="nursery", daemon=True).start()
            atexit.register(self._stop, self._process)
        return self._process

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            with self.changed:
                if "number" in told:
                    self._pids[told["number"]] = told["pid"]
                    self.ended.pop(told["pid"], None)  # of an earlier process that had this pid
                else:
                    self.ended[told["pid"]] = told["code"]
                self.changed.notify_all()

    @staticmethod
    def _stop(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


nursery = Nursery()


def fork_at_request() -> dict[str, Any]:
    """Goes on for as long as there is input; answers a request in the process that was forked for it."""
    children: dict[int, int] = {}
    waiting = selectors.DefaultSelector()
    waiting.register(0, selectors.EVENT_READ)
    rest = b""
    while True:
        for key, _ in waiting.select():
            if key.fd != 0:
                waiting.unregister(key.fd)
                os.close(key.fd)
                pid = children.pop(key.fd)
                tell(pid=pid, code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                continue
            read = os.read(0, 65_536)
            if not read:
                for pid in children.values():
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                request: dict[str, Any] = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    return request
                ended = os.pidfd_open(pid)
                children[ended] = pid
                waiting.register(ended, selectors.EVENT_READ)
                tell(number=request["number"], pid=pid)


def tell(**facts: int) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


def become(request: dict[str, Any]) -> None:
    """What a process started by a command would find."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests are run with nohup
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for fd, to in ((0, os.open(NULL, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(to, fd)
    os.closerange(3, 1024)
    resource.setrlimit(resource.RLIMIT_NOFILE, tuple(request["files"]))
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv[1:] = request["arguments"]


def main() -> None:
    gc.disable()
    # Not `realtime.__main__`, which is what is run.
    for name in ("uvloop", "realtime.main", "realtime.worker", "tests.metering"):
        importlib.import_module(name)
    gc.freeze()
    assert threading.active_count() == 1, "a fork takes no threads along"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = fork_at_request()
    become(request)
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
