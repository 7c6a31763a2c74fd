"""Payloads coming in, and cursors. What does not fit is `invalid_payload`, and nothing else happens.

Incoming models are strict: no field unknown, no type guessed, no string beyond its length.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from realtime.domain.errors import InvalidPayload
from realtime.domain.trust import is_user_id


def _uuid_text(value: Any) -> Any:
    """UUIDs travel as text; strict mode would otherwise want the object."""
    return UUID(value) if isinstance(value, str) and len(value) == 36 else value


def _no_controls(value: Any) -> Any:
    if isinstance(value, str) and any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in value):
        raise ValueError("has control characters")
    return value


def _user_id(value: Any) -> Any:
    if isinstance(value, str) and not is_user_id(value):
        raise ValueError("is not a user id of 1 to 128 characters, none a control character")
    return value


UserId = Annotated[str, BeforeValidator(_user_id), StringConstraints(min_length=1, max_length=128)]
RequestId = Annotated[str, BeforeValidator(_no_controls), StringConstraints(min_length=1, max_length=128)]
CallId = Annotated[UUID, BeforeValidator(_uuid_text)]


class Payload(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StartCall(Payload):
    calleeId: UserId
    requestId: RequestId


class OfCall(Payload):
    callId: CallId


class Nothing(Payload):
    pass


class RenewAuth(Payload):
    token: Annotated[str, StringConstraints(min_length=1, max_length=8192)]


class SetRate(Payload):
    tokensPerPeriod: Annotated[int, Field(ge=1, le=1_000_000)]


class DevLogin(Payload):
    userId: UserId
    role: Annotated[str, StringConstraints(pattern="^(user|admin)$")] = "user"
    trust: Annotated[str, StringConstraints(pattern="^(basic|verified|trusted|vip)$")] = "basic"


class Grant(Payload):
    userId: UserId
    tokens: Annotated[int, Field(ge=1, le=1_000_000_000)]
    reason: Annotated[str, BeforeValidator(_no_controls), StringConstraints(min_length=1, max_length=500)]


P = TypeVar("P", bound=BaseModel)


def parse(model: type[P], data: Any) -> P:
    """`data`, checked; raises InvalidPayload naming the first thing wrong, never repeating the value."""
    try:
        return model.model_validate(data)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part)[:64] for part in first["loc"])  # a name nobody knows is the sender's own
        what = first["msg"].removeprefix("Value error, ")
        raise InvalidPayload(f"{where}: {what}".removeprefix(": ")) from None
    except RecursionError:
        raise InvalidPayload("nested too deeply") from None


MAX_PAGE = 100


def page_limit(text: str | None) -> int:
    if text is None:
        return 20
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_PAGE:
        raise InvalidPayload(f"limit: is a number from 1 to {MAX_PAGE}")
    return int(text)


def encode_cursor(*place: Any) -> str:
    """A place in a listing as an opaque text: stable whatever is added before it."""
    return base64.urlsafe_b64encode(json.dumps([str(part) for part in place]).encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None, *types: Any) -> tuple[Any, ...] | None:
    if cursor is None:
        return None
    try:
        parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        return tuple(kind(part) for kind, part in zip(types, map(_text, parts), strict=True))
    except (ValueError, TypeError, RecursionError):
        raise InvalidPayload("cursor: is not one this server gave") from None


def _text(part: Any) -> str:
    if not isinstance(part, str):
        raise TypeError("a cursor is made of texts")
    return part


def moment(text: str) -> datetime:
    """A time as it stands in a cursor; raises ValueError for what PostgreSQL would not take."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None or not 1970 <= at.year < 9999:
        raise ValueError("is no moment")
    return at


def row_id(text: str) -> int:
    """A bigint as it stands in a cursor; raises ValueError."""
    if not 0 <= int(text) < 2**63:
        raise ValueError("is no bigint")
    return int(text)
