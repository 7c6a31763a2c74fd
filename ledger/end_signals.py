"""Signals that end a process by an exception, so that the embedded server it started is stopped on its way."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""SIGHUP is a terminal that closes."""


class Ended(KeyboardInterrupt):
    """A signal ends the process at once."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


def end_on_signals() -> None:
    """From now on one of them raises Ended, unless it is ignored already (`nohup`)."""
    for number in ENDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


def end(number: int, _: object) -> None:
    ignore_signals()
    raise Ended(number)


def ignore_signals() -> None:
    """While what was started is being stopped: one more would leave it running."""
    for number in ENDS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """None of them arrives in here before `release_signals`; then those that came meanwhile do."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    try:
        yield
    finally:
        release_signals()


def release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
