"""Agora's video tokens taken apart, in both forms, as `realtime.adapters.agora_tokens` describes them.

Nothing here is shared with what makes them.
"""

from __future__ import annotations

import base64
import hmac
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_MAX_PAYLOAD_BYTES: Final = 64 * 1024
_RTC: Final = 1


class MalformedToken(ValueError):
    """This is no token of version 006 or 007 for video."""


@dataclass(frozen=True, slots=True)
class TokenDescription:
    """What a token says. All times are unix seconds, whatever the version counts in."""

    version: str
    app_id: str
    issued_at: int | None
    """Not told by 006."""
    expires_at: int
    salt: int
    channel: str | None
    """006 has only a checksum of it."""
    account: str | None
    """The uid in decimal, "" for any uid; 006 has only a checksum of it."""
    privileges: Mapping[int, int]
    """Privilege → when it ends; 0: never."""
    signature: bytes
    signed: bytes
    """What the signature is of, but for the identity that 006 puts before it."""

    def is_genuine(self, certificate: str, channel: str, uid: int) -> bool:
        """Whether it was made with this certificate for this channel and uid."""
        account = str(uid) if uid else ""
        if self.version == "006":
            identity = (self.app_id + channel + account).encode()
            expected = hmac.digest(certificate.encode(), identity + self.signed, "sha256")
        elif (self.channel, self.account) == (channel, account) and self.issued_at is not None:
            expected = _signature_007(certificate, self.issued_at, self.salt, self.signed)
        else:
            return False
        return hmac.compare_digest(expected, self.signature)


def describe(token: str) -> TokenDescription:
    """Take a token apart, of either version. Raises MalformedToken; says nothing of whether it is genuine."""
    try:
        if token.startswith("007"):
            return _describe_007(payload_007(token))
        if token.startswith("006"):
            return _describe_006(token[3:35], base64.b64decode(token[35:], validate=True))
    except (ValueError, struct.error) as error:
        raise MalformedToken(f"malformed Agora token: {error}") from error
    raise MalformedToken("not an Agora token of version 006 or 007")


def payload_007(token: str) -> bytes:
    """The signature and body inside a 007 token; raises MalformedToken.

    Two tokens are the same if these are: builds of zlib differ in how they compress.
    """
    inflate = zlib.decompressobj()
    try:
        payload = inflate.decompress(base64.b64decode(token[3:], validate=True), _MAX_PAYLOAD_BYTES)
    except (zlib.error, ValueError) as error:
        raise MalformedToken(f"malformed Agora token: {error}") from error
    if not inflate.eof or inflate.unused_data:
        raise MalformedToken("malformed Agora token: its compressed part is cut off, too long or followed by more")
    return payload


class _Reader:
    """Reads the integers and strings of a token one after the other; struct.error where the bytes end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def u16(self) -> int:
        return self._integer("<H", 2)

    def u32(self) -> int:
        return self._integer("<I", 4)

    def _integer(self, form: str, size: int) -> int:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += size
        return int(value)

    def string(self) -> bytes:
        (value,) = struct.unpack_from(f"{self.u16()}s", self.data, self.at)
        self.at += len(value)
        return bytes(value)

    def numbers(self) -> dict[int, int]:
        return {self.u16(): self.u32() for _ in range(self.u16())}

    def end(self) -> None:
        if self.at != len(self.data):
            raise ValueError(f"{len(self.data) - self.at} bytes too many")


def _describe_007(payload: bytes) -> TokenDescription:
    reader = _Reader(payload)
    signature = reader.string()
    signed = payload[reader.at :]
    app_id = reader.string().decode()
    issued_at, lifetime_s, salt = reader.u32(), reader.u32(), reader.u32()
    services, kind = reader.u16(), reader.u16()
    if (services, kind) != (1, _RTC):
        raise ValueError(f"{services} services, the first of type {kind}: not one for video alone")
    privileges = {name: issued_at + seconds if seconds else 0 for name, seconds in reader.numbers().items()}
    channel, account = reader.string().decode(), reader.string().decode()
    reader.end()
    return TokenDescription(
        version="007",
        app_id=app_id,
        issued_at=issued_at,
        expires_at=issued_at + lifetime_s,
        salt=salt,
        channel=channel,
        account=account,
        privileges=privileges,
        signature=signature,
        signed=signed,
    )


def _describe_006(app_id: str, content: bytes) -> TokenDescription:
    """006 is the app id in clear, then base64 of str(signature), CRC-32s of channel and account, str(message)."""
    reader = _Reader(content)
    signature = reader.string()
    reader.u32()
    reader.u32()
    signed = reader.string()
    reader.end()
    message = _Reader(signed)
    salt, expires_at, privileges = message.u32(), message.u32(), message.numbers()
    message.end()
    return TokenDescription(
        version="006",
        app_id=app_id,
        issued_at=None,
        expires_at=expires_at,
        salt=salt,
        channel=None,
        account=None,
        privileges=privileges,
        signature=signature,
        signed=signed,
    )


def _signature_007(certificate: str, issued_at: int, salt: int, body: bytes) -> bytes:
    by_time = hmac.digest(struct.pack("<I", issued_at), certificate.encode(), "sha256")
    return hmac.digest(hmac.digest(struct.pack("<I", salt), by_time, "sha256"), body, "sha256")
