"""What processes cost: CPU seconds and memory from /proc, and who listens on a port."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """Of one process or several together, since their start."""

    cpu_s: float
    memory_bytes: int
    """Proportional set size: shared pages count once over all who share them."""

    def __add__(self, other: object) -> Cost:
        if not isinstance(other, Cost):
            return NotImplemented
        return Cost(self.cpu_s + other.cpu_s, self.memory_bytes + other.memory_bytes)


def cpu_s(pid: int) -> float:
    """User and system time; 0 for a process that has gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND
    return 0.0


def memory_bytes(pid: int) -> int:
    """The proportional set size; 0 for a process that has gone or is somebody else's."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def cost(pids: Iterable[int]) -> Cost:
    return sum((Cost(cpu_s(pid), memory_bytes(pid)) for pid in pids), Cost(0.0, 0))


def listening_on(port: int) -> list[int]:
    """The processes of this machine that listen on a TCP port, as far as one may see."""
    sockets = set(_sockets_on(port))
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _holds(entry, sockets)]


def _sockets_on(port: int) -> list[str]:
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    found.append(f"socket:[{fields[9]}]")
    return found


def _holds(process: Path, sockets: set[str]) -> bool:
    with contextlib.suppress(OSError):
        return any(_target(link) in sockets for link in (process / "fd").iterdir())
    return False


def _target(link: Path) -> str:
    with contextlib.suppress(OSError):
        return str(link.readlink())
    return ""


def open_files_to_the_limit() -> int:
    """Let this process and its children open as many files as the system lets them; answers how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


class Meter:
    """CPU seconds of some processes, and of the wall, since it was made."""

    def __init__(self, pids: Iterable[int]) -> None:
        self.pids = list(pids)
        self._started_at = time.perf_counter()
        self._cpu_s = {pid: cpu_s(pid) for pid in self.pids}

    def cpu_s(self, *pids: int) -> float:
        """Of those named, or all."""
        return sum(cpu_s(pid) - self._cpu_s[pid] for pid in pids or self.pids)

    def wall_s(self) -> float:
        return time.perf_counter() - self._started_at
