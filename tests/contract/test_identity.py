"""Section 3: who is calling, over HTTP and over sockets, by HS256 secret and by a JWKS."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import jwt
import pytest
import socketio
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.contract.service import Browser, Serve, Service, refused, someone
from tests.servers import JWT_SECRET, Opens, Server, eventually, token_of


@pytest.fixture(scope="module")
def service(serve: Serve) -> Iterator[Service]:
    with serve() as service:
        yield service


def signed(claims: dict[str, Any], key: Any = JWT_SECRET, algorithm: str = "HS256", **headers: Any) -> str:
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers or None)


def soon() -> int:
    return int(time.time()) + 600


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


BAD_TOKENS = {
    "empty": lambda: "",
    "not a token": lambda: "not-a-token",
    "three empty parts": lambda: "..",
    "expired": lambda: signed({"sub": "ann", "exp": int(time.time()) - 3600}),
    "expired a second ago": lambda: signed({"sub": "ann", "exp": int(time.time()) - 1}),
    "expired now": lambda: signed({"sub": "ann", "exp": int(time.time())}),
    "without exp": lambda: signed({"sub": "ann"}),
    "exp of text": lambda: f"{part({'alg': 'HS256'})}.{part({'sub': 'ann', 'exp': 'never'})}.AAAA",
    "wrong key": lambda: signed({"sub": "ann", "exp": soon()}, "another-secret-of-enough-length-for-it"),
    "signature cut off": lambda: signed({"sub": "ann", "exp": soon()}).rsplit(".", 1)[0] + ".",
    "signature changed": lambda: signed({"sub": "ann", "exp": soon()})[:-6] + "AAAAAA",
    "alg none": lambda: f"{part({'alg': 'none', 'typ': 'JWT'})}.{part({'sub': 'ann', 'exp': soon()})}.",
    "alg HS512": lambda: signed({"sub": "ann", "exp": soon()}, JWT_SECRET * 2, "HS512"),
    "RS256 where HS256 is set": lambda: signed({"sub": "ann", "exp": soon()}, RSA_KEY, "RS256", kid="rsa"),
    "not yet valid": lambda: signed({"sub": "ann", "exp": soon(), "nbf": soon() - 10}),
    "without sub": lambda: signed({"exp": soon()}),
    "empty sub": lambda: signed({"sub": "", "exp": soon()}),
    "sub of 129 characters": lambda: signed({"sub": "x" * 129, "exp": soon()}),
    "sub with a NUL": lambda: signed({"sub": "ann\0bob", "exp": soon()}),
    "sub with a line break": lambda: signed({"sub": "ann\r\nX-Evil: 1", "exp": soon()}),
    "sub a lone surrogate": lambda: signed_raw(b'{"sub":"\\ud800","exp":%d}' % soon()),
    "sub a number": lambda: signed_raw(b'{"sub":12,"exp":%d}' % soon()),
    "sub a list": lambda: signed_raw(b'{"sub":["ann"],"exp":%d}' % soon()),
    "unknown trust": lambda: signed({"sub": "ann", "exp": soon(), "trust": "royal"}),
    "trust a number": lambda: signed({"sub": "ann", "exp": soon(), "trust": 4}),
    "unknown role": lambda: signed({"sub": "ann", "exp": soon(), "role": "root"}),
    "role a list": lambda: signed({"sub": "ann", "exp": soon(), "role": ["admin"]}),
    "claims a list": lambda: signed_raw(b"[1]"),
    "claims not JSON": lambda: signed_raw(b"{"),
    "exp infinite": lambda: signed_raw(b'{"sub":"ann","exp":1e999}'),
    "exp not a number": lambda: signed_raw(b'{"sub":"ann","exp":NaN}'),
    "7,000 characters": lambda: "a" * 3500 + "." + "b" * 3500,
}
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def signed_raw(payload: bytes) -> str:
    """Well signed, whatever the payload is."""
    return jwt.PyJWS().encode(payload, JWT_SECRET, algorithm="HS256")


async def connection_refused(server: Server | Service, **options: Any) -> dict[str, Any]:
    """What a client is told that may not connect."""
    told: list[Any] = []
    client = socketio.AsyncClient(reconnection=False)
    client.on("connect_error", told.append)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.connect(server.url, transports=["websocket"], wait_timeout=30, **options)
    await client.disconnect()
    [answer] = told
    return answer


@pytest.mark.parametrize("kind", BAD_TOKENS)
async def test_a_bad_token_is_refused_over_http_and_over_sockets(service: Service, browser: Browser, kind: str) -> None:
    token = BAD_TOKENS[kind]()
    answer = await browser.get(service, "/api/v1/balance", token=token)
    refused(answer, 401, "unauthenticated")
    assert "WWW-Authenticate" in answer.headers
    told = await connection_refused(service, auth={"token": token})
    assert "unauthenticated" in json.dumps(told)


@pytest.mark.parametrize(
    "auth",
    [None, {}, {"token": None}, {"token": 5}, {"token": ["a"]}, {"token": {}}, "text", ["token"], {"other": "x"}],
    ids=repr,
)
async def test_a_handshake_without_a_token_of_text_is_refused(service: Service, auth: Any) -> None:
    told = await connection_refused(service, auth=auth)
    assert "unauthenticated" in json.dumps(told)


async def test_what_a_client_says_of_itself_beside_its_token_is_not_refused(service: Service) -> None:
    client = socketio.AsyncClient(reconnection=False)
    auth = {"token": token_of(someone()), "client": "web", "version": [1, 2]}
    await client.connect(service.url, auth=auth, transports=["websocket"])
    assert (await client.call("balance:get", {}, timeout=30))["ok"]
    await client.disconnect()


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer  ", "Basic YW5uOmFubg==", "Token x", "Bearer a b c", "bearer"]
)
async def test_an_authorization_header_of_another_shape_is_refused(
    service: Service, browser: Browser, header: str
) -> None:
    refused(await browser.get(service, "/api/v1/balance", headers={"Authorization": header}), 401, "unauthenticated")


async def test_the_scheme_bearer_is_known_in_any_case(service: Service, browser: Browser) -> None:
    answer = await browser.get(service, "/api/v1/balance", headers={"Authorization": f"bearer {token_of(someone())}"})
    assert answer.status == 200


USER_IDS = {
    "one character": "x",
    "128 characters": "y" * 128,
    "128 emoji": "🦊" * 128,
    "unicode": "Ünïcödé-日本語-עברית",
    "spaces": "  ann of  the hills ",
    "quotes": "o'hara\"; DROP TABLE accounts; --",
    "slashes": "a/b\\c/../d",
    "percent": "100%s %(x)s {y} $1 %25",
    "colons": "user:ann:wallet",
    "a room of another": "call:123",
    "wildcards": "*?[a]",
    "an email address": "ann@example.org",
}


@pytest.mark.parametrize("kind", USER_IDS)
async def test_any_user_id_of_1_to_128_characters_can_hold_tokens_ring_and_be_rung(
    service: Service, browser: Browser, open_tab: Opens, kind: str
) -> None:
    user, other = USER_IDS[kind], someone("other")
    await browser.grant(service, user, 100)
    assert await browser.balance(service, user) == 100
    await browser.grant(service, other, 100)
    tab, other_tab = await open_tab(service.server, user), await open_tab(service.server, other)
    for ringing, rung in ((tab, other_tab), (other_tab, tab)):
        started = await ringing.ask("call:start", {"calleeId": rung.user, "requestId": someone("r")})
        assert started["ok"], started
        call_id = started["call"]["id"]
        assert (started["call"]["callerId"], started["call"]["calleeId"]) == (ringing.user, rung.user)
        accepted = await rung.ask("call:accept", {"callId": call_id})
        assert accepted["ok"], accepted
        assert (await ringing.ask("call:end", {"callId": call_id}))["ok"]
        seen = await browser.get(service, f"/api/v1/calls/{call_id}", user=rung.user)
        assert seen.json.get("call", seen.json)["callerId"] == ringing.user


async def test_a_token_that_holds_for_thousands_of_years_lets_in(
    service: Service, browser: Browser, open_tab: Opens
) -> None:
    user = someone()
    assert (await browser.get(service, "/api/v1/balance", user=user, claims={"exp": 10**14})).status == 200
    tab = await open_tab(service.server, user, exp=10**14)
    assert (await tab.ask("balance:get"))["ok"]


@pytest.mark.parametrize("trust", ["basic", "verified", "trusted", "vip"])
@pytest.mark.parametrize("role", ["user", "admin"])
async def test_each_trust_and_role_is_let_in(service: Service, browser: Browser, trust: str, role: str) -> None:
    claims = {"trust": trust, "role": role}
    assert (await browser.get(service, "/api/v1/balance", user=someone(), claims=claims)).status == 200


async def test_only_an_admin_may_grant(service: Service, browser: Browser) -> None:
    grant = {"json": {"userId": "ann", "tokens": 5, "reason": "x"}, "headers": {"Idempotency-Key": someone("key")}}
    refused(await browser.post(service, "/api/v1/admin/grants", **grant), 401, "unauthenticated")
    refused(await browser.post(service, "/api/v1/admin/grants", user=someone(), **grant), 403)
    user = {"user": someone(), "claims": {"role": "user", "trust": "vip"}}
    refused(await browser.post(service, "/api/v1/admin/grants", **user, **grant), 403)


async def test_in_development_anyone_gets_a_token_that_works_from_dev_login(
    service: Service, browser: Browser, open_tab: Opens
) -> None:
    user = someone("ann")
    answer = await browser.post(service, "/dev/login", json={"userId": user})
    assert answer.status == 200, answer.text
    token = answer.json["token"]
    assert jwt.decode(token, JWT_SECRET, algorithms=["HS256"])["sub"] == user
    assert (await browser.get(service, "/api/v1/balance", token=token)).status == 200


@pytest.mark.parametrize(
    "body", [{}, {"userId": ""}, {"userId": "x" * 129}, {"userId": 5}, {"userId": None}, [], "ann", None], ids=repr
)
async def test_dev_login_refuses_what_is_no_user_id(service: Service, browser: Browser, body: Any) -> None:
    answer = await browser.post(service, "/dev/login", json=body)
    assert 400 <= answer.status < 500
    refused(answer, answer.status)


# With JWT_JWKS_URL: keys from a small server that can change them.


@dataclass
class Keys:
    url: str
    documents: list[dict[str, Any]]
    """The key set as it stands now."""


@pytest.fixture(scope="module")
def keys() -> Iterator[Keys]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"keys": published.documents}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    published = Keys(f"http://127.0.0.1:{server.server_port}/jwks.json", [])
    published.documents += [public_key(RSA_KEY, "rsa", "RS256"), public_key(EC_KEY, "ec", "ES256")]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield published
    server.shutdown()
    thread.join()
    server.server_close()


def public_key(key: Any, kid: str, algorithm: str) -> dict[str, Any]:
    serialize = RSAAlgorithm.to_jwk if algorithm == "RS256" else ECAlgorithm.to_jwk
    return json.loads(serialize(key.public_key())) | {"kid": kid, "alg": algorithm, "use": "sig"}


@pytest.fixture(scope="module")
def jwks_service(serve: Serve, keys: Keys) -> Iterator[Service]:
    with serve(JWT_SECRET="", JWT_JWKS_URL=keys.url) as service:
        yield service


@pytest.fixture
async def forget_added_keys(keys: Keys) -> AsyncIterator[None]:
    before = list(keys.documents)
    yield
    keys.documents[:] = before


@pytest.mark.parametrize(("key", "kid", "algorithm"), [(RSA_KEY, "rsa", "RS256"), (EC_KEY, "ec", "ES256")])
async def test_a_token_signed_by_a_published_key_lets_in(
    jwks_service: Service, browser: Browser, key: Any, kid: str, algorithm: str
) -> None:
    user = someone("ann")
    token = signed({"sub": user, "exp": soon()}, key, algorithm, kid=kid)
    assert (await browser.get(jwks_service, "/api/v1/balance", token=token)).status == 200
    client = socketio.AsyncClient(reconnection=False)
    await client.connect(jwks_service.url, auth={"token": token}, transports=["websocket"])
    assert (await client.call("balance:get", {}))["ok"]
    await client.disconnect()


OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
BAD_JWKS_TOKENS = {
    "another key under a known kid": lambda: signed({"sub": "ann", "exp": soon()}, OTHER_RSA_KEY, "RS256", kid="rsa"),
    "an unknown kid": lambda: signed({"sub": "ann", "exp": soon()}, OTHER_RSA_KEY, "RS256", kid="other"),
    "expired": lambda: signed({"sub": "ann", "exp": int(time.time()) - 3600}, RSA_KEY, "RS256", kid="rsa"),
    "HS256 with the public key as the secret": lambda: hs256_with_public_key(RSA_KEY),
    "HS256 with the development secret": lambda: signed({"sub": "ann", "exp": soon()}, JWT_SECRET, kid="rsa"),
    "alg none": lambda: f"{part({'alg': 'none', 'kid': 'rsa'})}.{part({'sub': 'ann', 'exp': soon()})}.",
    "ES256 named, signed with RSA": lambda: confused("ES256", "rsa"),
    "the key in the token's own header": lambda: signed(
        {"sub": "ann", "exp": soon()}, OTHER_RSA_KEY, "RS256", kid="rsa", jwk=public_key(OTHER_RSA_KEY, "rsa", "RS256")
    ),
    "a kid that is a list": lambda: (
        f"{part({'alg': 'RS256', 'kid': ['rsa']})}.{part({'sub': 'ann', 'exp': soon()})}.AAAA"
    ),
    "without sub": lambda: signed({"exp": soon()}, RSA_KEY, "RS256", kid="rsa"),
}


def hs256_with_public_key(key: rsa.RSAPrivateKey) -> str:
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed_part = f"{part({'alg': 'HS256', 'kid': 'rsa'})}.{part({'sub': 'ann', 'exp': soon()})}"
    mac = hmac.new(public, signed_part.encode(), hashlib.sha256).digest()
    return f"{signed_part}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def confused(algorithm: str, kid: str) -> str:
    token = signed({"sub": "ann", "exp": soon()}, RSA_KEY, "RS256", kid=kid)
    _, payload, signature = token.split(".")
    return f"{part({'alg': algorithm, 'kid': kid})}.{payload}.{signature}"


@pytest.mark.parametrize("kind", BAD_JWKS_TOKENS)
async def test_a_token_no_published_key_signed_is_refused(jwks_service: Service, browser: Browser, kind: str) -> None:
    token = BAD_JWKS_TOKENS[kind]()
    refused(await browser.get(jwks_service, "/api/v1/balance", token=token), 401, "unauthenticated")
    assert "unauthenticated" in json.dumps(await connection_refused(jwks_service, auth={"token": token}))


async def test_a_key_published_later_is_found_and_the_old_ones_go_on_working(
    jwks_service: Service, browser: Browser, keys: Keys, forget_added_keys: None
) -> None:
    new = ec.generate_private_key(ec.SECP256R1())
    keys.documents.append(public_key(new, "later", "ES256"))

    async def let_in() -> bool:
        token = signed({"sub": "ann", "exp": soon()}, new, "ES256", kid="later")
        return (await browser.get(jwks_service, "/api/v1/balance", token=token)).status == 200

    await eventually(let_in)  # a key set may be kept for a while, but a new key must not need a restart
    token = signed({"sub": "ann", "exp": soon()}, RSA_KEY, "RS256", kid="rsa")
    assert (await browser.get(jwks_service, "/api/v1/balance", token=token)).status == 200
