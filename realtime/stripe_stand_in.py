"""Runs localstripe as the program it is, in a process of its own, where it does no harm to its surroundings.

As published it listens on every interface, needs IPv6, and writes all it knows into one file in /tmp at each request,
whoever else does the same. Here it listens on 127.0.0.1 and keeps what it knows in memory.

usage: python -m realtime.stripe_stand_in --port PORT --from-scratch
"""

from __future__ import annotations

import builtins
import io
import pickle
import runpy
import socket
from typing import Any

ITS_FILE = "/tmp/localstripe.pickle"  # noqa: S108
_open = builtins.open


class _Loopback(socket.socket):
    """A socket that is bound to 127.0.0.1, whatever interface was meant."""

    def __init__(self, family: int = -1, *rest: Any, **named: Any) -> None:
        super().__init__(socket.AF_INET if family == socket.AF_INET6 else family, *rest, **named)

    def bind(self, address: Any) -> None:
        super().bind(("127.0.0.1", address[1]) if self.family == socket.AF_INET else address)


def _open_but_its_file(file: Any, *rest: Any, **named: Any) -> Any:
    return io.BytesIO() if file == ITS_FILE else _open(file, *rest, **named)


def main() -> None:
    socket.socket = _Loopback  # type: ignore[misc]
    builtins.open = _open_but_its_file
    pickle.dump = lambda *_args, **_named: None
    runpy.run_module("localstripe", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
