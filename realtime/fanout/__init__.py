"""Socket.IO for many tabs: python-socketio with its own client manager and transport."""

from realtime.fanout.limits import Limits
from realtime.fanout.server import FanoutServer, serve

__all__ = ["FanoutServer", "Limits", "serve"]
