"""Agora's webhook notifications: whether one is genuine, and what it says.

Form and signatures from "Receive notifications about channel events" and "Channel event types" (docs.agora.io, Agora
Notifications). Agora wants a 200 within ten seconds, else it sends again, at most three times, with the same noticeId
and another notifyMs. What the events mean is decided in `realtime.domain.agora_presence`.
"""

from __future__ import annotations

import hmac
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from realtime.domain.agora_presence import UserEvent

RTC_PRODUCT: Final = 1

# 103/104: a host, 105/106: an audience member, 107/108: a user of the communication profile joins/leaves;
# 111/112: the role changes. 101/102 (the channel is made and destroyed) are about no user.
_JOINS: Final = frozenset({103, 105, 107, 111, 112})
_LEAVES: Final = frozenset({104, 106, 108})


def verify_notification(secret: str, body: bytes, signature_v2: str | None, signature_v1: str | None) -> bool:
    """Whether the raw body was signed with the secret of the webhook.

    `signature_v2` is the header Agora-Signature-V2 (hex HMAC-SHA256), `signature_v1` Agora-Signature (hex HMAC-SHA1),
    each None if the header is absent. V1 counts only where there is no V2, so that nobody can choose the weaker one for
    a message that carries both. Raises ValueError for an empty secret, with which anybody could sign.
    """
    if not secret:
        raise ValueError("the webhook secret is empty")
    if signature_v2 is not None:
        return _is_hex_digest(signature_v2, hmac.digest(secret.encode(), body, "sha256"))
    if signature_v1 is not None:
        return _is_hex_digest(signature_v1, hmac.digest(secret.encode(), body, "sha1"))
    return False


def _is_hex_digest(claimed: str, digest: bytes) -> bool:
    # Bytes, as compare_digest takes no text beyond ASCII, which a header may hold.
    return hmac.compare_digest(claimed.encode("utf-8", "surrogateescape"), digest.hex().encode())


# What the database's bigint and integer hold; Agora's numbers are far below.
_Counter = Annotated[int, Field(ge=0, lt=2**63)]


class _Received(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)


class Payload(_Received):
    """The part of a video event's payload that is used; each field is there for some types of event only."""

    channel_name: Annotated[str, Field(max_length=256)] | None = None
    uid: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    account: Annotated[str, Field(max_length=256)] | None = None
    client_seq: _Counter | None = None
    ts: _Counter | None = None
    """When it happened, unix seconds."""
    reason: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    """Of a leave: see `realtime.domain.agora_presence.LeaveReason`."""
    duration: _Counter | None = None
    """Of a leave: how long the user was there, seconds."""


class Notification(_Received):
    """One notification, validated. `model_validate_json` raises pydantic.ValidationError, which is a ValueError."""

    notice_id: Annotated[str, Field(min_length=1, max_length=256)]
    """The same each time Agora sends it."""
    product_id: int
    event_type: int
    notify_ms: _Counter | None = None
    """When this copy was sent, unix milliseconds."""
    sid: Annotated[str, Field(max_length=256)] | None = None
    payload: Payload = Payload()

    @model_validator(mode="before")
    @classmethod
    def _payload_of_video_only(cls, received: Any) -> Any:
        """Other products have payloads of their own, which are none of our business and refuse nothing."""
        if isinstance(received, dict) and (received.get("productId") != RTC_PRODUCT or received.get("payload") is None):
            return {key: value for key, value in received.items() if key != "payload"}
        return received

    def user_event(self) -> UserEvent | None:
        """What it says of one user's presence; None if it is about a channel, another product or a type not known."""
        said = self.payload
        if self.product_id != RTC_PRODUCT or self.event_type not in _JOINS | _LEAVES:
            return None
        if not said.channel_name or not said.uid:
            return None
        leaves = self.event_type in _LEAVES
        return UserEvent(
            channel=said.channel_name,
            uid=said.uid,
            client_seq=said.client_seq,
            in_channel=not leaves,
            at=said.ts if said.ts is not None else (self.notify_ms or 0) // 1000,
            reason=said.reason if leaves else None,
        )
