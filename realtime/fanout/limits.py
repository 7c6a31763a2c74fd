"""What one process allows a socket, an address and a user, so that none of them can take it from the others."""

from __future__ import annotations

from dataclasses import dataclass

from realtime.domain.addresses import Networks, is_within


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one process, in bytes and seconds. What passes one is refused or dropped, and counted."""

    message_bytes: int = 1_000_000
    """The longest message (WebSocket message or polling body) a client may send: Socket.IO's own default, so that what
    is merely too long for its field is answered and not cut off."""
    messages_per_s: float = 50.0
    """Messages a socket may send on average; more than `messages_burst` at once ends it."""
    messages_burst: int = 200
    message_unit_bytes: int = 16_384
    """A longer message counts as several, one for each begun unit: bytes are bounded by the same rate."""
    send_queue_bytes: int = 1_000_000
    """Unsent bytes a slow socket may have here before it is dropped."""
    total_queue_bytes: int = 256_000_000
    """Unsent bytes of all slow sockets together; above, the slowest are dropped."""
    tabs_per_user: int = 1_000
    """Sockets in one room whose name starts with `user_room_prefix`."""
    user_room_prefix: str = "user:"
    connections_per_address: int = 20_000
    """Open connections of one peer address that is no proxy of ours."""
    proxies: Networks = ()
    """Peers with any number of connections: all tabs behind a proxy have its address."""
    handshake_timeout_s: float = 10.0
    """A connection that has not sent its first request whole, or joined a namespace, is dropped after this."""
    expiry_grace_s: float = 10.0
    """Between telling a socket that its authentication has run out and dropping it."""


class Connections:
    """Open connections, by the address they come from. Unix sockets have none, and no bound."""

    def __init__(self, limits: Limits) -> None:
        self.total = 0
        self._limit = limits.connections_per_address
        self._proxies = limits.proxies
        self._by_address: dict[str, int] = {}

    def opened(self, address: str) -> bool:
        """Count one more; False, and nothing counted, when the address has its share."""
        count = self._by_address.get(address, 0)
        if address and count >= self._limit and not is_within(address, self._proxies):
            return False
        self.taken_over(address)
        return True

    def taken_over(self, address: str) -> None:
        """Count one that has its share already once more, until who had it before has let go of it."""
        self._by_address[address] = self._by_address.get(address, 0) + 1
        self.total += 1

    def closed(self, address: str) -> None:
        self.total -= 1
        count = self._by_address[address] - 1
        if count:
            self._by_address[address] = count
        else:
            del self._by_address[address]
