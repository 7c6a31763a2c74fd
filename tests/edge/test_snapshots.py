"""What tabs are told of their users when the database could not say it at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from realtime.domain.errors import Unavailable
from realtime.edge import snapshots
from realtime.edge.snapshots import Snapshots
from realtime.services.wallets import UNUSED, Account
from tests.servers import eventually


class Database:
    """The two questions a snapshot asks, of a database that can be away."""

    def __init__(self) -> None:
        self.away = True
        self.asked: list[set[str]] = []

    async def wallets_of(self, users: list[str]) -> dict[str, Account]:
        self.asked.append(set(users))
        if self.away:
            raise Unavailable("the database cannot be reached")
        return dict.fromkeys(users, UNUSED)

    async def live_of(self, _users: list[str]) -> dict[str, Any]:
        return {}


class Tabs:
    """What each socket id is told first."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def greet(self, sid: str, _messages: Any) -> None:
        self.told.append(sid)


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def tabs() -> Tabs:
    return Tabs()


@pytest.fixture
def each(monkeypatch: pytest.MonkeyPatch, database: Database, tabs: Tabs) -> Snapshots:
    monkeypatch.setattr(snapshots, "RETRY_S", 0.01)
    monkeypatch.setattr(snapshots, "TABS_AT_ONCE", 100)
    return Snapshots(tabs, database, database)  # type: ignore[arg-type]


async def test_tabs_that_come_while_the_database_is_away_are_asked_about_together_until_it_is_back(
    each: Snapshots, database: Database, tabs: Tabs
) -> None:
    await asyncio.gather(*(each.greet(f"tab {number}", f"user {number}") for number in range(250)))
    assert len(database.asked) == 250, "each once, when it came"
    await eventually(lambda: len(database.asked) >= 253)
    assert {len(users) for users in database.asked[250:]} == {100}, "then some together, one question at a time"
    assert tabs.told == []

    database.away = False
    await eventually(lambda: len(tabs.told) == 250)
    assert len(set(tabs.told)) == 250
    assert [len(users) for users in database.asked[-3:]] == [100, 100, 50]


async def test_a_tab_that_left_meanwhile_is_not_asked_about_again(
    each: Snapshots, database: Database, tabs: Tabs
) -> None:
    await each.greet("gone", "ann")
    await each.greet("here", "bob")
    each.forget("gone")
    database.away = False
    await eventually(lambda: tabs.told)
    assert (tabs.told, database.asked[-1]) == (["here"], {"bob"})


async def test_what_fails_on_the_way_to_all_tabs_is_told_to_the_rest_later(
    each: Snapshots, database: Database, tabs: Tabs
) -> None:
    await each.tell_all({f"tab {number}": "ann" for number in range(150)})
    assert (len(database.asked), tabs.told) == (1, []), "the first refusal is enough to know"
    database.away = False
    await eventually(lambda: len(tabs.told) == 150)


async def test_a_server_that_stops_owes_nobody_a_snapshot(each: Snapshots, database: Database) -> None:
    await each.greet("tab", "ann")
    each.stop()
    await asyncio.gather(
        *(task for task in asyncio.all_tasks() if task.get_name() == "snapshots owed"), return_exceptions=True
    )
    assert len(database.asked) == 1
