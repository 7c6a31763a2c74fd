"""Keys from a JWKS URL, with the URL's answer made up."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from realtime.domain.errors import Unauthenticated, Unavailable
from realtime.edge import identity
from realtime.edge.identity import KeySet

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
DOCUMENT = {"keys": [json.loads(RSAAlgorithm.to_jwk(KEY.public_key())) | {"kid": "rsa", "alg": "RS256"}]}


def token(kid: str = "rsa") -> str:
    return jwt.encode({"sub": "ann", "exp": int(time.time()) + 60}, KEY, algorithm="RS256", headers={"kid": kid})


async def test_while_the_keys_were_never_had_every_token_meets_an_outage_and_not_a_refusal() -> None:
    async def fails(_url: str) -> Any:
        raise OSError("nobody is there")

    keys = KeySet("https://keys.example", fails)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await keys.verify(token())


async def test_who_signs_with_a_known_key_does_not_wait_for_the_fetch_that_an_unknown_one_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identity, "JWKS_RETRY_S", 0)
    answers = asyncio.Event()
    answers.set()

    async def fetch(_url: str) -> Any:
        await answers.wait()
        return DOCUMENT

    keys = KeySet("https://keys.example", fetch)
    assert (await keys.verify(token())).user_id == "ann"
    answers.clear()
    stranger = asyncio.create_task(keys.verify(token("of a stranger")))
    await asyncio.sleep(0)
    assert not stranger.done()
    assert (await keys.verify(token())).user_id == "ann"
    assert not stranger.done()
    answers.set()
    with pytest.raises(Unauthenticated):
        await stranger


@pytest.mark.parametrize("algorithm", [["RS256"], {"RS256": 1}, None, 1])
async def test_an_algorithm_of_any_shape_is_refused(algorithm: Any) -> None:
    async def fetch(_url: str) -> Any:
        return DOCUMENT

    header = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": "rsa"}).encode()).decode().rstrip("=")
    with pytest.raises(Unauthenticated):
        await KeySet("https://keys.example", fetch).verify(f"{header}.e30.e30")
