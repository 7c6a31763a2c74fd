"""What one process counts about its sockets; the application turns it into metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stats:
    """Counters since the start. Gauges (`sockets`, `send_queue_bytes`, …) are read from `FanoutServer.stats()`."""

    connects: int = 0
    """Engine.IO sessions opened, by either transport."""
    reconnects: int = 0
    """Rooms that were entered again within seconds of being left by their last socket: reloads and lost connections."""
    upgrades: int = 0
    """Sessions that went from polling to WebSocket."""
    disconnects: Counter[str] = field(default_factory=Counter)
    """Sessions ended, by Engine.IO's reason."""
    drops: Counter[str] = field(default_factory=Counter)
    """Connections this process ended or refused by itself: `slow`, `message_rate`, `message_size`, …"""
    messages_out: int = 0
    """Packets handed to recipients here."""
    bytes_out: int = 0
    messages_in: int = 0
    bytes_in: int = 0
    redis_published: int = 0
    redis_received: int = 0
    redis_lost: int = 0
    """Messages for other processes that were given up because Redis was away."""
    gaps: int = 0
    """Times this process's tabs may have missed pushes, and were sent snapshots."""
    sockets: int = 0
    polling_sockets: int = 0
    connections: int = 0
    """Open TCP connections, HTTP ones included."""
    send_queue_bytes: int = 0
    redis_lag_s: float | None = None
    """How long this process's own probe last took through Redis and back."""
