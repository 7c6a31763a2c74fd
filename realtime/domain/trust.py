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


class UserRole(StrEnum):
    USER = "user"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Identity:
    user_id: str
    trust: Trust
    role: UserRole
    expires_at_s: int
    """Unix time after which this identity is no longer good."""
