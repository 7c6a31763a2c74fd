"""Who is calling: the identity a token or session carries, and its levels of trust."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Trust(StrEnum):
    """How far a user is trusted; each level may start its own number of calls a minute."""

    BASIC = "basic"
    VERIFIED = "verified"
    TRUSTED = "trusted"
    VIP = "vip"


def is_user_id(text: str) -> bool:
    """Whether this can be a user's id: 1 to 128 characters, none of them a control character or half of one.

    An id is written to logs, databases and addresses; what those could misread is nobody's name.
    """
    return 1 <= len(text) <= 128 and not any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in text)


class UserRole(StrEnum):
    USER = "user"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Identity:
    user_id: str
    trust: Trust
    role: UserRole
    expires_at_s: int
    """Unix time from which on this identity is no longer good."""

    def holds_at(self, now_s: float) -> bool:
        return now_s < self.expires_at_s
