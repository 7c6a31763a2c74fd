"""Section 4, money routes: an admin's grants, their idempotency keys, and what is no grant."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.service import Browser, Serve, Service, refused, someone


@pytest.fixture(scope="module")
def service(serve: Serve) -> Iterator[Service]:
    with serve() as service:
        yield service


def granting(key: str | None, **body: Any) -> dict[str, Any]:
    return {"json": body, "headers": {} if key is None else {"Idempotency-Key": key}}


async def test_a_grant_without_a_key_is_refused(service: Service, browser: Browser) -> None:
    admin = {"user": someone("admin"), "claims": {"role": "admin"}}
    grant = granting(None, userId="ann", tokens=5, reason="x")
    refused(await browser.post(service, "/api/v1/admin/grants", **admin, **grant), 400, "idempotency_key_missing")


async def test_a_grant_with_the_same_key_again_is_replayed_and_with_another_body_refused(
    service: Service, browser: Browser
) -> None:
    admin = {"user": someone("admin"), "claims": {"role": "admin"}}
    user, key = someone(), someone("key")
    grant = granting(key, userId=user, tokens=5, reason="x")
    first = await browser.post(service, "/api/v1/admin/grants", **admin, **grant)
    again = await browser.post(service, "/api/v1/admin/grants", **admin, **grant)
    assert first.status == again.status == 200
    assert first.text == again.text
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    other = granting(key, userId=user, tokens=6, reason="x")
    refused(await browser.post(service, "/api/v1/admin/grants", **admin, **other), 422, "idempotency_key_reused")
    assert await browser.balance(service, user) == 5


async def test_the_same_key_by_many_at_once_grants_once(service: Service, browser: Browser) -> None:
    admin = {"user": someone("admin"), "claims": {"role": "admin"}}
    user = someone()
    grant = granting(someone("key"), userId=user, tokens=5, reason="x")
    answers = await asyncio.gather(*(browser.post(service, "/api/v1/admin/grants", **admin, **grant) for _ in range(8)))
    assert {answer.status for answer in answers} <= {200, 409}
    assert await browser.balance(service, user) == 5


async def test_keys_are_each_users_own(service: Service, browser: Browser) -> None:
    user, key = someone(), someone("key")
    for tokens in (5, 6):
        admin = {"user": someone("admin"), "claims": {"role": "admin"}}
        grant = granting(key, userId=user, tokens=tokens, reason="x")
        assert (await browser.post(service, "/api/v1/admin/grants", **admin, **grant)).status == 200
    assert await browser.balance(service, user) == 11


@pytest.mark.parametrize(
    "changed",
    [
        {"tokens": 0}, {"tokens": -5}, {"tokens": 2**63}, {"tokens": 1.5}, {"tokens": "5"}, {"tokens": True},
        {"tokens": None}, {"userId": ""}, {"userId": "x" * 129}, {"userId": 5}, {"userId": "a\0b"}, {"reason": 5},
        {"reason": "a\0b"}, {"extra": 1},
    ],
    ids=repr,
)  # fmt: skip
async def test_a_bad_grant_is_refused(service: Service, browser: Browser, changed: dict[str, Any]) -> None:
    admin = {"user": someone("admin"), "claims": {"role": "admin"}}
    grant = granting(someone("key"), **({"userId": someone(), "tokens": 5, "reason": "x"} | changed))
    refused(await browser.post(service, "/api/v1/admin/grants", **admin, **grant), 400, "invalid_payload")
