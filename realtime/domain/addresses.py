"""Whose request it is that a proxy passes on.

A proxy notes in X-Forwarded-For the address it was asked from, behind whatever the asker wrote there itself. So the
list is read from its end, and only as far as those who wrote it are trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Networks = Sequence[IPv4Network | IPv6Network]


def networks(names: Sequence[str]) -> Networks:
    """Addresses and networks such as 10.0.0.0/8. Raises ValueError."""
    return tuple(ip_network(name) for name in names)


def client_address(peer: str, forwarded_for: str, trusted: Networks) -> str:
    """The last address that no trusted proxy has, of those that trusted ones vouch for."""
    for name in [*reversed(forwarded_for.split(",")), ""]:
        if not is_within(peer, trusted) or (before := _address(name.strip())) is None:
            return peer
        peer = str(before)
    return peer


def is_within(address: str, trusted: Networks) -> bool:
    found = _address(address)
    return found is not None and any(found in network for network in trusted)


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(name.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
