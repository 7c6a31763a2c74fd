"""Section 6 when something is away: meters killed, everything killed, Redis or PostgreSQL gone."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import redis

from tests.contract.service import Browser, Pairs, Serve, Service, refused, someone, sql, told_of, verified
from tests.faults.lines import Line
from tests.metering import meter_clock
from tests.servers import PATIENCE_S, Opens, Server, eventually

QUICK = {"BILLING_PERIOD_SECONDS": 1, "CALL_GRACE_SECONDS": 120, "RECONNECT_GRACE_SECONDS": 60}


async def periods(service: Service, call_id: str) -> list[tuple[int, float]]:
    """Each debit of a call: its period, and the seconds it came after that period began."""
    async with sql(service) as db:
        rows = await db.fetch(
            """SELECT split_part(j.idempotency_key, ':', 3)::int AS period, extract(epoch FROM j.created_at) AS at
            FROM journals j WHERE j.type = 'call_debit' AND j.idempotency_key LIKE $1 ORDER BY 1""",
            f"call:{call_id}:%",
        )
    began = float(rows[0]["at"])
    return [(row["period"], float(row["at"]) - began - (row["period"] - 1)) for row in rows]


async def billed(service: Service, call_id: str, count: int, timeout_s: float = PATIENCE_S) -> list[tuple[int, float]]:
    async def enough() -> Any:
        found = await periods(service, call_id)
        return found if len(found) >= count else None

    found: list[tuple[int, float]] = await eventually(enough, timeout_s)
    return found


async def test_only_workers_meter_where_the_web_is_told_not_to_and_killing_one_delays_the_next_debit_by_5_s_at_most(
    serve: Serve, pair: Pairs, browser: Browser
) -> None:
    with serve(METER_IN_WEB=0, **QUICK) as service:
        two = await pair(service)
        call_id = (await two.talk())["call"]["id"]
        two_periods_later = time.monotonic() + 2
        await eventually(lambda: time.monotonic() > two_periods_later)
        assert len(await periods(service, call_id)) == 1, "the web process does not meter"
        workers = [await asyncio.to_thread(service.start, "worker", **QUICK)]
        most_late: list[float] = []
        for _ in range(3):
            seen = len(await billed(service, call_id, 3))
            workers.append(await asyncio.to_thread(service.start, "worker", **QUICK))
            workers.pop(0).kill()
            most_late.append(max(delay for _, delay in (await billed(service, call_id, seen + 2))[seen:]))
        call = (await two.caller.ask("call:end", {"callId": call_id}))["call"]
        debits = await periods(service, call_id)
        assert [period for period, _ in debits] == list(range(1, call["periodsBilled"] + 1))
        assert min(most_late) <= 5, debits

        def versions() -> list[int]:
            return sorted(update["version"] for update in two.caller.told("balance:update"))

        last = call["periodsBilled"] + 1
        await eventually(lambda: last in versions())
        assert len(versions()) == len(set(versions())), "none came twice"
        missing = set(range(1, last + 1)) - set(versions())
        assert len(missing) <= 3, "a kill between a commit and its push loses that one push"
        verified(service)


async def test_after_an_outage_longer_than_the_grace_the_call_ended_when_what_was_paid_ran_out(
    serve: Serve, pair: Pairs, browser: Browser, open_tab: Opens
) -> None:
    with serve(**QUICK) as service:
        two = await pair(service)
        call_id = (await two.talk())["call"]["id"]
        await billed(service, call_id, 2)
        service.server.kill()
        before = await periods(service, call_id)
        async with meter_clock(service.database_url) as move:
            await move(QUICK["CALL_GRACE_SECONDS"] + 10)
        server = service.start(**QUICK)
        tab = await open_tab(server, two.caller.user)

        async def ended() -> Any:
            answer = await browser.get(server, f"/api/v1/calls/{call_id}", user=two.caller.user)
            return answer.json["call"] if answer.json["call"]["status"] == "ended" else None

        call = await eventually(ended)
        assert call["endedAt"] == call["paidThrough"]
        assert call["periodsBilled"] == len(before)
        assert await periods(service, call_id) == before, "nothing was billed for the outage"
        assert await browser.balance(server, two.caller.user) == 1000 - 10 * len(before)
        assert not told_of(tab, "call:accepted", call_id) or told_of(tab, "call:ended", call_id)
        verified(service)


async def test_after_an_outage_within_the_grace_every_period_is_billed_once_and_tabs_are_back(
    serve: Serve, pair: Pairs, browser: Browser, open_tab: Opens
) -> None:
    with serve(**QUICK) as service:
        two = await pair(service)
        call_id = (await two.talk())["call"]["id"]
        await billed(service, call_id, 2)
        for _ in range(2):
            service.server.kill()
            service.servers[0] = service.start(**QUICK)
            caller = await open_tab(service.server, two.caller.user)
            callee = await open_tab(service.server, two.callee.user)
            for tab in (caller, callee):
                await eventually(lambda tab=tab: tab.told("call:accepted"))
                assert (await tab.ask("call:join", {"callId": call_id}))["ok"]
            await billed(service, call_id, len(await periods(service, call_id)) + 1)
        call = (await caller.ask("call:end", {"callId": call_id}))["call"]
        assert call["endReason"] == "hangup"
        debits = await periods(service, call_id)
        assert [period for period, _ in debits] == list(range(1, call["periodsBilled"] + 1))
        passed = datetime.fromisoformat(call["endedAt"]) - datetime.fromisoformat(call["startedAt"])
        assert call["periodsBilled"] == int(passed.total_seconds()) + 1, "each second begun, and none besides"
        verified(service)


def stop_redis(service: Service) -> None:
    with redis.from_url(service.redis_url) as client:
        client.shutdown(nosave=True)


async def ready(browser: Browser, server: Server) -> tuple[int, str]:
    answer = await browser.get(server, "/ready")
    return answer.status, answer.text.lower()


async def test_with_redis_gone_calls_go_on_being_metered_and_readiness_says_so(
    serve: Serve, pair: Pairs, browser: Browser
) -> None:
    with serve(**QUICK | {"RECONNECT_GRACE_SECONDS": 1}) as service:
        two = await pair(service)
        call_id = (await two.talk())["call"]["id"]
        await billed(service, call_id, 2)
        stop_redis(service)

        async def unready() -> Any:
            status, said = await ready(browser, service.server)
            return status == 503 and said

        said = await eventually(unready)
        assert "redis" in said
        assert (await browser.get(service, "/health")).status == 200
        seen = len(await periods(service, call_id))
        debits = await billed(service, call_id, seen + 4)
        assert min(delay for _, delay in debits[seen:]) <= 5, "none waits for Redis"
        assert (await browser.get(service, "/api/v1/balance", user=two.caller.user)).status == 200
        admin = {"user": "admin", "claims": {"role": "admin"}}
        grant = {"userId": "ann", "tokens": 1, "reason": "x"}
        refused = await browser.post(
            service, "/api/v1/admin/grants", **admin, json=grant, headers={"Idempotency-Key": "k"}
        )
        assert (refused.status, refused.json["code"]) == (503, "limiter_unavailable")
        answer = await two.caller.ask("call:end", {"callId": call_id})
        assert answer["ok"], answer
        verified(service)


# PostgreSQL behind a line that can be cut.


async def test_with_postgresql_cut_off_everything_answers_unavailable_and_goes_on_when_it_is_back(
    serve: Serve, browser: Browser, pair: Pairs, line: Line
) -> None:
    with serve(METER_IN_WEB=0, **QUICK) as service:
        name = urlsplit(service.database_url).path
        url = f"postgresql://postgres@127.0.0.1:{line.port}{name}"
        service.servers.insert(0, await asyncio.to_thread(service.start, DATABASE_URL=url, **QUICK))
        two = await pair(service)
        call_id = (await two.talk())["call"]["id"]
        await billed(service, call_id, 2)
        line.cut()

        async def unready() -> Any:
            status, said = await ready(browser, service.server)
            return status == 503 and said

        said = await eventually(unready)
        assert "postgres" in said
        assert "password" not in said
        assert (await browser.get(service, "/health")).status == 200
        for path in ("balance", "transactions", "calls", f"calls/{call_id}"):
            answer = await browser.get(service, f"/api/v1/{path}", user=two.caller.user)
            refused(answer, 503, "unavailable")
        for event, payload in (
            ("balance:get", {}),
            ("call:renew", {"callId": call_id}),
            ("call:end", {"callId": call_id}),
        ):
            assert (await two.caller.ask(event, payload))["error"]["code"] == "unavailable"
        before = await periods(service, call_id)

        line.mend()
        await eventually(lambda: _is_ready(browser, service.server))
        await billed(service, call_id, len(before) + 2)
        call = (await two.caller.ask("call:end", {"callId": call_id}))["call"]
        assert call["endReason"] == "hangup"
        assert [period for period, _ in await periods(service, call_id)] == list(range(1, call["periodsBilled"] + 1))
        # What was committed as the line was cut nobody could tell: a hole in the versions, which a page sees.
        versions = [update["version"] for update in two.caller.told("balance:update")]
        assert versions == sorted(set(versions))
        assert versions[-1] == call["periodsBilled"] + 1
        verified(service)


async def test_a_tab_that_comes_while_postgresql_is_cut_off_gets_its_snapshot_when_it_is_back(
    serve: Serve, browser: Browser, open_tab: Opens, line: Line
) -> None:
    with serve() as service:
        user = someone("patient")
        await browser.grant(service, user, 70)
        url = f"postgresql://postgres@127.0.0.1:{line.port}{urlsplit(service.database_url).path}"
        cut_off = await asyncio.to_thread(service.start, DATABASE_URL=url)
        line.cut()
        tab = await open_tab(cut_off, user)
        assert (await tab.ask("balance:get"))["error"]["code"] == "unavailable"
        assert not tab.told("balance:update")
        line.mend()
        [told] = await eventually(lambda: tab.told("balance:update"))
        assert (told["reason"], told["balance"], told["version"]) == ("snapshot", 70, 1)


async def test_a_server_stops_by_itself_while_postgresql_takes_connections_and_says_nothing(
    serve: Serve, line: Line
) -> None:
    with serve(METER_IN_WEB=0) as service:
        url = f"postgresql://postgres@127.0.0.1:{line.port}{urlsplit(service.database_url).path}"
        muted = await asyncio.to_thread(service.start, DATABASE_URL=url, **QUICK)
        line.cut()
        line.mend(held=True)
        await eventually(lambda: line.ends)
        assert await asyncio.to_thread(muted.stop) == 0


async def _is_ready(browser: Browser, server: Server) -> bool:
    return (await ready(browser, server))[0] == 200


# Seconds that were not used


async def test_with_rounding_by_second_the_unused_seconds_of_the_last_period_come_back(
    serve: Serve, browser: Browser, pair: Pairs, open_tab: Opens
) -> None:
    with serve(BILLING_ROUNDING="second", BILLING_PERIOD_SECONDS=30, DEFAULT_RATE_TOKENS_PER_PERIOD=300) as service:
        two = await pair(service, tokens=300)
        onlooker = await open_tab(service.server, two.caller.user)
        call_id = (await two.talk())["call"]["id"]
        assert await browser.balance(service, two.caller.user) == 0
        call = (await two.caller.ask("call:end", {"callId": call_id}))["call"]
        lasted = datetime.fromisoformat(call["endedAt"]) - datetime.fromisoformat(call["startedAt"])
        seconds = -(-lasted // timedelta(seconds=1))
        assert call["tokensSpent"] == 10 * max(seconds, 1), "a started second is paid whole"
        assert call["periodsBilled"] == 1
        assert await browser.balance(service, two.caller.user) == 300 - call["tokensSpent"]
        earned = await browser.get(service, "/api/v1/earnings", user=two.callee.user)
        assert earned.json["balance"] == call["tokensSpent"] * 80 // 100
        for tab in (two.caller, onlooker):
            updates = await eventually(lambda tab=tab: (said := tab.told("balance:update")) and len(said) >= 3 and said)
            assert [update["version"] for update in updates] == [1, 2, 3]
            assert [update["balance"] for update in updates] == [300, 0, 300 - call["tokensSpent"]]
        await eventually(
            lambda: sum(update["delta"] for update in two.callee.told("earnings:update")) == earned.json["balance"]
        )
        again = await asyncio.gather(*(two.callee.ask("call:end", {"callId": call_id}) for _ in range(3)))
        assert [answer["call"] for answer in again] == [call] * 3
        assert await browser.balance(service, two.caller.user) == 300 - call["tokensSpent"]
        verified(service)


async def test_a_postgresql_that_only_reads_is_an_outage_and_who_comes_meanwhile_is_served_when_it_is_over(
    serve: Serve, browser: Browser, open_tab: Opens
) -> None:
    """As the former primary of a failover."""
    with serve() as service:
        name = urlsplit(service.database_url).path[1:]
        async with sql(service) as db:

            async def reads_only(whether: str) -> None:
                await db.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {whether}')
                await db.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )

            await db.execute("SET default_transaction_read_only = off")
            await reads_only("on")
            tab = await open_tab(service.server, someone("ann"))
            await eventually(lambda: tab.told("balance:update"))
            refusal = await browser.put(service, "/api/v1/me/rate", user=tab.user, json={"tokensPerPeriod": 7})
            refused(refusal, 503, "unavailable")
            await reads_only("off")

            async def rate_is_set() -> bool:
                path = "/api/v1/me/rate"
                return (await browser.put(service, path, user=tab.user, json={"tokensPerPeriod": 7})).status == 200

            await eventually(rate_is_set)
