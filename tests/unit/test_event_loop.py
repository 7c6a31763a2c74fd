"""`event_loop.run`: how a program ends whose tasks do not."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable

import pytest

from ledger.end_signals import Ended
from realtime import event_loop
from realtime.event_loop import Program
from tests.servers import PATIENCE_S


@pytest.fixture
def run() -> Callable[[Program], BaseException | None]:
    """Runs a program in a thread of its own, which a program without an end does not keep waiting for."""

    def run_apart(program: Program) -> BaseException | None:
        met: list[BaseException | None] = []

        def act() -> None:
            try:
                event_loop.run(program)
            except BaseException as error:
                met.append(error)
            else:
                met.append(None)

        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
        assert met, "it did not end"
        return met[0]

    return run_apart


Run = Callable[[Program], BaseException | None]


async def goes_on(cancelled: list[str]) -> None:
    """As a worker of psycopg's pool does: to be cancelled is one more failure of what it is at."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append("cancelled")


@pytest.mark.parametrize("ends", [None, Ended(15)], ids=["by itself", "by a signal"])
def test_a_task_that_goes_on_when_it_is_cancelled_does_not_keep_the_program_from_ending(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ends: Ended | None
) -> None:
    monkeypatch.setattr("realtime.event_loop.LEFT_AFTER_S", 0.05)
    cancelled: list[str] = []

    async def program() -> None:
        task = asyncio.create_task(goes_on(cancelled))
        await asyncio.sleep(0)
        assert not task.done()
        if ends is not None:
            raise ends

    assert run(program) is ends
    assert cancelled == ["cancelled"]
    gc.collect()
    assert caplog.records == [], "nobody is told of what was left"


def test_what_a_task_does_at_its_end_is_waited_for(run: Run) -> None:
    done: list[str] = []

    async def tidies_up(done: list[str]) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.05)
            done.append("tidied up")

    async def program() -> None:
        task = asyncio.create_task(tidies_up(done))
        await asyncio.sleep(0)
        assert not task.done()
        raise Ended(15)

    assert isinstance(run(program), Ended)
    assert done == ["tidied up"]
