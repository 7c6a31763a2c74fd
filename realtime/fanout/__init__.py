"""Socket.IO for many tabs: python-socketio with its own client manager and transport."""

from realtime.fanout.limits import Limits
from realtime.fanout.port import serve
from realtime.fanout.server import FanoutServer

__all__ = ["FanoutServer", "Limits", "serve"]
