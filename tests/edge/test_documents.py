"""The OpenAPI and AsyncAPI documents: valid, complete, and true of what the server really answers and pushes."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import jsonschema
import pytest
from openapi_spec_validator import validate

from realtime.domain import errors
from realtime.edge import documents
from realtime.edge.errors import STATUS
from realtime.edge.events import SENT
from realtime.edge.sockets import EVENTS
from realtime.main import document
from tests.edge.browser import Browser
from tests.servers import ROOT, Launch, Opens, Server, Tab, environment, eventually, token_of

Document = dict[str, Any]


def printed(kind: str, **settings: str) -> str:
    """What `python -m realtime KIND` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "realtime", kind],
        cwd=ROOT, env={"PATH": ""} | settings, capture_output=True, check=True, text=True,
    )  # fmt: skip
    return done.stdout


@pytest.fixture(scope="module")
def openapi() -> Document:
    settings = {name: value for name, value in environment("", "", {}).items() if name.startswith("STRIPE_")}
    found: Document = json.loads(printed("openapi", **settings))
    return found


@pytest.fixture(scope="module")
def asyncapi() -> Document:
    return documents.asyncapi()


def closed(schema: Any) -> Any:
    """The schemas with every object held to the members that are documented."""
    if isinstance(schema, dict):
        found = {key: closed(value) for key, value in schema.items()}
        return found | {"additionalProperties": False} if "properties" in found else found
    return [closed(item) for item in schema] if isinstance(schema, list) else schema


def check(found: Any, schema: Document, document: Document) -> None:
    components = closed(copy.deepcopy(document["components"]))
    jsonschema.Draft202012Validator({"components": components} | closed(schema)).validate(found)


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def resolved(document: Document, reference: str) -> Any:
    found: Any = document
    for step in reference.removeprefix("#/").split("/"):
        found = found[step.replace("~1", "/").replace("~0", "~")]
    return found


# -- OpenAPI -----------------------------------------------------------------------------------------------------------


def test_the_openapi_document_is_valid(openapi: Document) -> None:
    validate(openapi)


async def test_the_server_serves_what_the_command_prints(
    server: Server, http: aiohttp.ClientSession, openapi: Document, asyncapi: Document
) -> None:
    assert await (await http.get(f"{server.url}/openapi.json")).json() == openapi
    assert await (await http.get(f"{server.url}/asyncapi.json")).json() == asyncapi


def test_the_reference_for_people_is_the_one_the_command_prints() -> None:
    assert (ROOT / "docs" / "reference.md").read_text() == printed("reference"), (
        "run: python -m realtime reference > docs/reference.md"
    )


def test_every_route_of_the_contract_is_in_it(openapi: Document) -> None:
    routes = {(method.upper(), path) for path, methods in openapi["paths"].items() for method in methods}
    assert routes >= {
        ("GET", "/health"), ("GET", "/ready"), ("GET", "/metrics"),
        ("POST", "/bff/session"), ("GET", "/bff/session"), ("DELETE", "/bff/session"),
        ("GET", "/api/v1/balance"), ("GET", "/api/v1/earnings"), ("GET", "/api/v1/transactions"),
        ("GET", "/api/v1/calls"), ("GET", "/api/v1/calls/{callId}"), ("POST", "/api/v1/calls/{callId}/end"),
        ("PUT", "/api/v1/me/rate"), ("POST", "/api/v1/admin/grants"), ("POST", "/api/csp-report"),
        ("GET", "/api/v1/users/online"), ("GET", "/api/v1/ops/overview"), ("POST", "/dev/login"),
    }  # fmt: skip


def test_operations_have_ids_of_their_own(openapi: Document) -> None:
    ids = [operation["operationId"] for methods in openapi["paths"].values() for operation in methods.values()]
    assert len(set(ids)) == len(ids)


def test_every_refusal_has_a_status_and_its_code_is_documented(openapi: Document) -> None:
    codes = set(openapi["components"]["schemas"]["Problem"]["properties"]["code"]["enum"])
    for refused in documents._subclasses(errors.Refused):
        assert refused in STATUS
        assert refused.code in codes


def test_whoever_must_be_known_is_said_how(openapi: Document) -> None:
    paths = openapi["paths"]
    assert "security" not in paths["/health"]["get"]
    assert paths["/api/v1/balance"]["get"]["security"] == [{"bearer": []}, {"session": []}]
    assert paths["/api/v1/me/rate"]["put"]["security"] == [{"bearer": []}, {"session": [], "csrf": []}]
    assert paths["/bff/session"]["post"]["security"] == [{"bearer": []}]
    assert paths["/bff/session"]["delete"]["security"] == [{"session": [], "csrf": []}]


def test_a_money_route_documents_its_idempotency_key(openapi: Document) -> None:
    grants = openapi["paths"]["/api/v1/admin/grants"]["post"]
    [key] = [parameter for parameter in grants["parameters"] if parameter["name"] == "Idempotency-Key"]
    assert key["required"] is True
    assert {"400", "409", "422"} <= set(grants["responses"])


def test_in_production_nobody_logs_in_by_name(openapi: Document) -> None:
    from tests.edge.test_sessions import PRODUCTION

    env = PRODUCTION | {
        "PATH": "", "DATABASE_URL": "postgresql://db/x", "REDIS_URL": "redis://r", "JWT_SECRET": "s" * 32,
        "AGORA_APP_ID": "a" * 32, "AGORA_APP_CERTIFICATE": "b" * 32,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "realtime", "openapi"], cwd=ROOT, env=env, capture_output=True, check=True
    )
    production = json.loads(done.stdout)
    assert set(openapi["paths"]) - set(production["paths"]) == {"/dev/login", "/dev/payment-methods"}
    assert production["components"]["securitySchemes"]["session"]["name"] == "__Host-callmeter_session"


Ask = Callable[..., Any]


@pytest.fixture
def asked(server: Server, http: aiohttp.ClientSession, openapi: Document) -> Ask:
    """Send a request and hold the answer against the document."""

    async def ask(method: str, template: str, status: int, *, user: str | None = "ann", **options: Any) -> Any:
        path = template.replace("{callId}", "018f3c5e-0000-7000-8000-000000000000")
        claims = options.pop("claims", {})
        headers = options.pop("headers", {})
        if user is not None:
            headers = {"Authorization": f"Bearer {token_of(user, **claims)}"} | headers
        answer = await http.request(method, server.url + path + options.pop("query", ""), headers=headers, **options)
        assert answer.status == status, await answer.text()
        responses = openapi["paths"][template][method.lower()]["responses"]
        assert str(status) in responses, f"{method} {template} does not document {status}"
        documented = responses[str(status)].get("content")
        if documented is None:
            assert await answer.read() == b""
            return None
        schema = documented[answer.content_type]["schema"]
        body = await (answer.text() if schema.get("type") == "string" else answer.json(content_type=None))
        if answer.content_type.endswith("json") and schema:
            check(body, schema, openapi)
        return body

    return ask


async def test_real_answers_are_as_documented(asked: Ask) -> None:
    await asked("GET", "/health", 200, user=None)
    await asked("GET", "/ready", 200, user=None)
    await asked("GET", "/metrics", 200, user=None)
    await asked("GET", "/bff/session", 200, user=None)
    await asked("POST", "/bff/session", 200)
    await asked("GET", "/api/v1/balance", 200)
    await asked("GET", "/api/v1/earnings", 200)
    await asked("GET", "/api/v1/me", 200)
    await asked("PUT", "/api/v1/me/rate", 200, json={"tokensPerPeriod": 3})
    admin = {"user": "root", "claims": {"role": "admin"}}
    for number in (1, 2):
        grant = {"userId": "ann", "tokens": number, "reason": "a test"}
        await asked(
            "POST", "/api/v1/admin/grants", 200, json=grant, headers={"Idempotency-Key": f"grant-{number}"}, **admin
        )
    await asked("GET", "/api/v1/ops/overview", 200, **admin)
    page = await asked("GET", "/api/v1/transactions", 200, query="?limit=1")
    assert page["nextCursor"]
    await asked("GET", "/api/v1/transactions", 200, query=f"?cursor={page['nextCursor']}")
    await asked("GET", "/api/v1/calls", 200)
    await asked("GET", "/api/v1/users/online", 200)
    await asked("POST", "/dev/login", 200, user=None, json={"userId": "ann"})
    report = {"data": b'{"csp-report": {}}', "headers": {"Content-Type": "application/csp-report"}}
    await asked("POST", "/api/csp-report", 204, user=None, **report)


async def test_real_refusals_are_as_documented(asked: Ask) -> None:
    await asked("GET", "/api/v1/balance", 401, user=None)
    await asked("POST", "/bff/session", 401, user=None)
    await asked("DELETE", "/bff/session", 401, user=None)
    await asked("GET", "/api/v1/ops/overview", 403)
    await asked("GET", "/api/v1/calls", 400, query="?limit=0")
    await asked("GET", "/api/v1/calls", 400, query="?cursor=x")
    await asked("GET", "/api/v1/users/online", 400, query="?limit=1000")
    await asked("GET", "/api/v1/calls/{callId}", 404)
    await asked("POST", "/api/v1/calls/{callId}/end", 404)
    await asked("PUT", "/api/v1/me/rate", 400, json={"tokensPerPeriod": 0})
    await asked("PUT", "/api/v1/me/rate", 413, data=b" " * 70_000)
    admin = {"user": "root", "claims": {"role": "admin"}}
    grant = {"userId": "ann", "tokens": 1, "reason": "a test"}
    await asked("POST", "/api/v1/admin/grants", 400, json=grant, **admin)
    await asked("POST", "/api/v1/admin/grants", 403, json=grant, headers={"Idempotency-Key": "k"})
    await asked("POST", "/api/csp-report", 415, user=None, data=b"{}")


async def test_a_signed_in_page_is_answered_as_documented(
    server: Server, http: aiohttp.ClientSession, openapi: Document
) -> None:
    browser = Browser(http, server)
    await browser.sign_in("ann")
    schema = openapi["paths"]["/bff/session"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    check(await browser.who(), schema, openapi)


# -- AsyncAPI ----------------------------------------------------------------------------------------------------------


def test_every_reference_of_the_asyncapi_document_leads_somewhere(asyncapi: Document) -> None:
    found = set(references(asyncapi))
    assert found
    for reference in found:
        assert resolved(asyncapi, reference)


def test_every_event_is_an_operation_and_every_command_has_a_reply(asyncapi: Document) -> None:
    operations = asyncapi["operations"].values()
    received = {operation["messages"][0]["$ref"].rpartition("/")[2]: operation for operation in operations
                if operation["action"] == "receive"}  # fmt: skip
    assert set(received) == set(EVENTS)
    assert all(operation["reply"]["messages"] for operation in received.values())
    sent = {operation["messages"][0]["$ref"].rpartition("/")[2] for operation in operations
            if operation["action"] == "send"}  # fmt: skip
    assert sent == set(SENT)


def test_it_is_of_the_version_it_says_and_names_the_contracts_events(asyncapi: Document) -> None:
    assert asyncapi["asyncapi"] == "3.0.0"
    assert set(asyncapi["components"]["messages"]) >= {
        "call:start", "call:accept", "call:join", "call:decline", "call:cancel", "call:end", "call:renew",
        "balance:get", "call:incoming", "call:accepted", "call:ended", "call:token", "balance:update",
        "earnings:update", "balance:low", "query:invalidate",
    }  # fmt: skip


def test_the_command_prints_it(asyncapi: Document) -> None:
    from realtime.config import Settings

    assert json.loads(document(Settings(_env_file=None), "asyncapi")) == asyncapi


class Acknowledging:
    """Asks as a tab does, and holds each acknowledgement against the document."""

    def __init__(self, asyncapi: Document) -> None:
        self.asyncapi = asyncapi
        self.seen: set[str] = set()

    async def __call__(self, tab: Tab, event: str, payload: Any = None) -> dict[str, Any]:
        answer = await tab.ask(event, payload)
        check(answer, self.asyncapi["components"]["messages"][f"{event}.ack"]["payload"], self.asyncapi)
        if answer["ok"]:
            self.seen.add(event)
        return answer


async def test_real_acknowledgements_and_pushes_are_as_documented(
    launch: Launch, open_tab: Opens, http: aiohttp.ClientSession, asyncapi: Document
) -> None:
    server = launch(BILLING_PERIOD_SECONDS=1, CALL_GRACE_SECONDS=5)
    ask = Acknowledging(asyncapi)
    granted = await http.post(
        f"{server.url}/api/v1/admin/grants", json={"userId": "ann", "tokens": 30, "reason": "a test"},
        headers={"Authorization": f"Bearer {token_of('root', role='admin')}", "Idempotency-Key": "grant"},
    )  # fmt: skip
    assert granted.status == 200
    tabs = ann, bob, root = [
        await open_tab(server, "ann"), await open_tab(server, "bob"), await open_tab(server, "root", role="admin"),
    ]  # fmt: skip
    await ask(root, "ops:watch")
    assert not (await ask(ann, "ops:watch"))["ok"]

    async def ring(request_id: str) -> dict[str, str]:
        started = await ask(ann, "call:start", {"calleeId": "bob", "requestId": request_id})
        return {"callId": started["call"]["id"]}

    await ask(ann, "call:cancel", await ring("r-1"))
    await ask(bob, "call:decline", await ring("r-2"))
    call = await ring("r-3")
    await ask(bob, "call:accept", call)
    await ask(ann, "call:join", call)
    await ask(ann, "call:renew", call)
    await ask(ann, "balance:get")
    await ask(ann, "auth:renew", {"token": token_of("ann", exp=int(time.time()) + 5)})
    await eventually(lambda: len(ann.told("call:ended")) == 3)
    await eventually(lambda: ann.told("auth:expired") and root.told("ops:update"))
    await ask(bob, "call:end", call)
    await ask(root, "ops:unwatch")
    assert not (await ask(bob, "call:start", {}))["ok"]
    assert ask.seen == set(EVENTS)

    heard = [push for tab in tabs for push in tab.heard]
    for name, data in heard:
        check(data, asyncapi["components"]["messages"][name]["payload"], asyncapi)
    assert {name for name, _ in heard} == set(SENT)
