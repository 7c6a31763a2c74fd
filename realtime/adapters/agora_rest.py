"""Agora's channel management over REST: put somebody out of a channel.

Routes, fields and limits from "Channel Management REST API" (docs.agora.io, RTC REST API): about ten requests a second
an account, 429 above; a rule may have been made although no answer came within the 20 s to allow, or a 504 did, and the
list of rules then tells. The list may lack a rule that exists, so not finding one proves nothing.

Nothing here raises for what the network or Agora does: each call answers with a named outcome that says whether trying
again can help. Making the same rule twice does no harm, which is why an unknown outcome counts as one to repeat.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import aiohttp
import structlog
from yarl import URL

from realtime.adapters.agora_tokens import require_channel, require_uid

TIMEOUT_S: Final = 20.0
"""What Agora's "Create rule" says to allow a POST."""

MIN_RULE_S: Final = 10
MAX_RULE_S: Final = 86_430
"""Agora moves a duration outside these to the nearer one; 0 puts out without a ban."""

_MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
_JOIN_CHANNEL: Final = "join_channel"

log = structlog.get_logger(__name__)


class Outcome(Enum):
    """How a request ended."""

    DONE = ("done", False)
    """Agora said so, or the rule was found afterwards."""
    RATE_LIMITED = ("rate_limited", True)
    """429: more than the account's requests a second."""
    SERVER_ERROR = ("server_error", True)
    """Agora failed (5xx)."""
    UNREACHABLE = ("unreachable", True)
    """No connection: the request never left."""
    UNKNOWN = ("unknown", True)
    """No answer in time, or none that can be understood: it may have taken effect."""
    UNAUTHORIZED = ("unauthorized", False)
    """401 or 403: the customer id, its secret or the app id is wrong. Somebody must look."""
    REFUSED = ("refused", False)
    """Agora won't have this request as it is. Somebody must look."""

    def __init__(self, code: str, retryable: bool) -> None:
        self.code = code
        self.retryable = retryable
        """Whether the same request, later, can end better."""


@dataclass(frozen=True, slots=True)
class _Answer:
    outcome: Outcome
    body: Mapping[str, Any]
    maybe_done: bool = False
    """Failed, yet in a way in which Agora may have carried it out."""


class AgoraRest:
    """One Agora project's channel management. The session is the caller's, who closes it."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        app_id: str,
        customer_id: str,
        customer_secret: str,
        base: str = "https://api.agora.io",
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._session = session
        self._app_id = app_id
        credentials = base64.b64encode(f"{customer_id}:{customer_secret}".encode()).decode()
        self._headers = {"Authorization": f"Basic {credentials}"}
        self._base = base.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def kick(self, channel: str, uid: int, seconds: int) -> Outcome:
        """Put the uid out of the channel and keep it out for `seconds` (10 to 86,430; 0: it may come back at once).

        DONE once the rule is known to exist. A live rule for the same channel and uid counts when looking for one after
        a timeout, also one of an earlier attempt: it keeps the same user out. Raises ValueError for arguments Agora
        would not take; uid 0 would be anybody.
        """
        require_channel(channel)
        require_uid(uid)
        if seconds != 0 and not MIN_RULE_S <= seconds <= MAX_RULE_S:
            raise ValueError(f"a kicking rule lasts {MIN_RULE_S} to {MAX_RULE_S} s, or 0: {seconds}")
        rule = {
            "appid": self._app_id,
            "cname": channel,
            "uid": uid,
            "ip": "",
            "time_in_seconds": seconds,
            "privileges": [_JOIN_CHANNEL],
        }
        answer = await self._request("POST", "/dev/v1/kicking-rule", payload=rule)
        # With 0 seconds no rule stays that could be found.
        if answer.maybe_done and seconds and await self._has_rule(channel, uid):
            return Outcome.DONE
        if answer.outcome is Outcome.DONE and answer.body.get("status") != "success":
            log.warning("an answer of Agora is not understood", path="/dev/v1/kicking-rule", status=200)
            return Outcome.UNKNOWN
        return answer.outcome

    async def _has_rule(self, channel: str, uid: int) -> bool:
        answer = await self._request("GET", f"/dev/v1/kicking-rule?appid={self._app_id}")
        rules = answer.body.get("rules")
        return isinstance(rules, list) and any(_keeps_out(rule, channel, uid) for rule in rules)

    async def _request(self, method: str, path: str, *, payload: Mapping[str, Any] | None = None) -> _Answer:
        url = URL(self._base + path, encoded=True)
        try:
            async with self._session.request(
                method, url, json=payload, headers=self._headers, timeout=self._timeout, allow_redirects=False
            ) as response:
                body = _object(await _read(response))
                outcome = _outcome_of(response.status)
                if outcome is Outcome.DONE and body is None:
                    outcome = Outcome.UNKNOWN
                if outcome is not Outcome.DONE:
                    log.warning(
                        "a request to Agora failed",
                        method=method,
                        path=path,
                        status=response.status,
                        outcome=outcome.code,
                        message=str((body or {}).get("message"))[:200],
                        request_id=response.headers.get("X-Request-ID"),
                    )
                return _Answer(outcome, body or {}, maybe_done=outcome is Outcome.UNKNOWN or response.status == 504)
        except aiohttp.ClientConnectorError as error:
            outcome, reason = Outcome.UNREACHABLE, type(error).__name__
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            outcome, reason = Outcome.UNKNOWN, type(error).__name__
        log.warning("a request to Agora failed", method=method, path=path, outcome=outcome.code, error=reason)
        return _Answer(outcome, {}, maybe_done=outcome is Outcome.UNKNOWN)


def _outcome_of(status: int) -> Outcome:
    if status == 200:
        return Outcome.DONE
    if status == 429:
        return Outcome.RATE_LIMITED
    if status in (401, 403):
        return Outcome.UNAUTHORIZED
    return Outcome.SERVER_ERROR if status >= 500 else Outcome.REFUSED


def _keeps_out(rule: object, channel: str, uid: int) -> bool:
    if not isinstance(rule, dict) or (rule.get("cname"), rule.get("uid")) != (channel, uid):
        return False
    privileges = rule.get("privileges")
    return isinstance(privileges, list) and _JOIN_CHANNEL in privileges


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The answer's body, b"" if it is larger than any that is wanted."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _MAX_ANSWER_BYTES:
            return b""
    return bytes(body)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
