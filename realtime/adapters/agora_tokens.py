"""Agora's video tokens: what lets one side of a call into its channel, and puts it out when the paid time is over.

Nobody can revoke a token, so its expiry is the cut-off that works even if this server is gone; a kicking rule
(`realtime.adapters.agora_rest`) makes a sure thing of it. Version 007 ("AccessToken2") is the current form and is made
here with the standard library; 006, for projects that still need it, through the package agora-token-builder.

The 007 form, from Agora's public token sources (github.com/AgoraIO/Tools, DynamicKey/AgoraDynamicKey, and the npm
package agora-token); integers are little-endian, `str` is a u16 length and that many bytes:

    token   = "007" + base64(zlib(str(signature) + body))
    body    = str(app id) u32(issued) u32(lives for, s) u32(salt) u16(number of services) service…
    service = u16(1 = RTC) u16(number of privileges) { u16(privilege) u32(lives for, s) }… str(channel) str(account)
    key     = HMAC-SHA256(u32(salt), HMAC-SHA256(u32(issued), certificate));  signature = HMAC-SHA256(key, body)

The account is the uid in decimal, empty for uid 0. Lifetimes count from `issued`; in 006 they are absolute times. In
both forms a privilege's 0 means that it never ends, so none is ever written.
"""

from __future__ import annotations

import binascii
import hmac
import re
import secrets
import struct
import zlib
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from agora_token_builder.AccessToken import AccessToken as AccessToken006

MAX_LIFETIME_S: Final = 24 * 3600
"""Agora takes no token as valid for longer (docs.agora.io, "Deploy a token server")."""

MAX_UID: Final = 2**32 - 1
MAX_CHANNEL_BYTES: Final = 64

_MAX_SALT: Final = 99_999_999
"""The official builders draw salts from 1 to this."""
_U32: Final = 2**32 - 1
_RTC: Final = 1

# The 89 characters of the SDK reference of joinChannel ("channelId").
_CHANNEL: Final = re.compile(r"[a-zA-Z0-9 !#$%&()+\-:;<=.>?@\[\]^_{}|~,]{1,64}")
_HEX32: Final = re.compile(r"[0-9a-fA-F]{32}")


class Privilege(IntEnum):
    """What a token allows; the numbers are Agora's and the same in 006 and 007."""

    JOIN = 1
    PUBLISH_AUDIO = 2
    PUBLISH_VIDEO = 3
    PUBLISH_DATA = 4


_ALL_PRIVILEGES: Final = tuple(int(privilege) for privilege in Privilege)  # plain numbers pack in half the time


def require_channel(channel: str) -> None:
    """Raise ValueError unless Agora takes this as a channel name: 1–64 bytes of its 89 characters."""
    if not _CHANNEL.fullmatch(channel):
        raise ValueError(
            f"not an Agora channel name (1–{MAX_CHANNEL_BYTES} of letters, digits, punctuation): {channel!r}"
        )


def require_uid(uid: int) -> None:
    """Raise ValueError unless `uid` names one user: 1 to 2³²−1. Uid 0 in a token would let anybody in."""
    if not 1 <= uid <= MAX_UID:
        raise ValueError(f"not an Agora uid (1–{MAX_UID}): {uid}")


class TokenIssuer:
    """Issues tokens that let one uid join one channel and publish audio, video and data, all until one moment."""

    __slots__ = ("_build", "_certificate", "app_id", "version")

    def __init__(self, app_id: str, certificate: str, version: str = "007") -> None:
        """`app_id` and `certificate` are 32 hexadecimal characters, `version` "007" or "006"; else ValueError."""
        if not _HEX32.fullmatch(app_id):
            raise ValueError("the Agora app id is not 32 hexadecimal characters")
        if not _HEX32.fullmatch(certificate):
            raise ValueError("the Agora app certificate is not 32 hexadecimal characters")
        builders = {"007": self._issue_007, "006": self._issue_006}
        if version not in builders:
            raise ValueError(f"the Agora token version is neither 007 nor 006: {version!r}")
        self.app_id = app_id
        self.version = version
        self._certificate = certificate
        self._build = builders[version]

    def __repr__(self) -> str:
        return f"TokenIssuer(app_id={self.app_id!r}, version={self.version!r})"

    def issue(self, channel: str, uid: int, now: int, expires_at: int) -> str:
        """A token that ends at `expires_at`, or 24 h after `now` if that is sooner; both in unix seconds.

        If `expires_at` has passed the token is one that has expired: whoever asked too late gets no second more, and a
        batch of tokens never fails for one late call. Raises ValueError for a channel name or uid Agora would not take,
        and for times outside 32 bits.
        """
        require_channel(channel)
        require_uid(uid)
        if not (0 <= now <= _U32 and 2 <= expires_at <= _U32):
            raise ValueError(f"not unix seconds of 32 bits: now {now}, expires_at {expires_at}")
        return self._build(channel, uid, now, min(expires_at, now + MAX_LIFETIME_S))

    def _issue_007(self, channel: str, uid: int, now: int, expires_at: int) -> str:
        issued_at = min(now, expires_at - 1)  # a lifetime is never 0, which would mean no end
        lifetime_s = expires_at - issued_at
        return pack_007(
            self.app_id,
            self._certificate,
            channel=channel,
            account=str(uid),
            issued_at=issued_at,
            lifetime_s=lifetime_s,
            salt=secrets.randbelow(_MAX_SALT) + 1,
            privileges_s=dict.fromkeys(_ALL_PRIVILEGES, lifetime_s),
        )

    def _issue_006(self, channel: str, uid: int, now: int, expires_at: int) -> str:
        token = AccessToken006(self.app_id, self._certificate, channel, uid)
        # The package's own default, but by the clock the caller gave. It bounds the token; the privileges end it.
        token.ts = now + MAX_LIFETIME_S
        for privilege in _ALL_PRIVILEGES:
            token.addPrivilege(privilege, expires_at)
        return str(token.build())


_BODY_HEAD: Final = struct.Struct("<H32sIIIHHH")
_PRIVILEGE: Final = struct.Struct("<HI")


def pack_007(
    app_id: str,
    certificate: str,
    *,
    channel: str,
    account: str,
    issued_at: int,
    lifetime_s: int,
    salt: int,
    privileges_s: Mapping[int, int],
) -> str:
    """The 007 token of exactly these values (see the module's first lines); `privileges_s` in ascending order.

    Nothing is checked: `TokenIssuer` does that. `account` is the uid in decimal, "" for uid 0.
    """
    name, user = channel.encode(), account.encode()
    body = b"".join(
        (
            _BODY_HEAD.pack(32, app_id.encode(), issued_at, lifetime_s, salt, 1, _RTC, len(privileges_s)),
            *(_PRIVILEGE.pack(privilege, seconds) for privilege, seconds in privileges_s.items()),
            len(name).to_bytes(2, "little"),
            name,
            len(user).to_bytes(2, "little"),
            user,
        )
    )
    signature = _signature_007(certificate, issued_at, salt, body)
    packed = zlib.compress(b"\x20\x00" + signature + body)
    return "007" + binascii.b2a_base64(packed, newline=False).decode("ascii")


def _signature_007(certificate: str, issued_at: int, salt: int, body: bytes) -> bytes:
    by_time = hmac.digest(issued_at.to_bytes(4, "little"), certificate.encode(), "sha256")
    key = hmac.digest(salt.to_bytes(4, "little"), by_time, "sha256")
    return hmac.digest(key, body, "sha256")
