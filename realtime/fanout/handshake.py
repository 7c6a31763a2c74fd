"""The HTTP request that opens a socket: read from its raw bytes, which are all that is kept of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

LONGEST_HEAD_BYTES = 32 * 1024
END_OF_HEAD = b"\r\n\r\n"


class BadRequest(Exception):
    """The head is no HTTP request."""


@dataclass(slots=True)
class Head:
    """A request's line and headers. Names of headers are in lower case; one that came twice is joined."""

    method: str
    target: str
    version: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query_string(self) -> str:
        return self.target.partition("?")[2]

    @property
    def query(self) -> dict[str, str]:
        """Of a repeated parameter, the first."""
        pairs = parse_qsl(self.query_string, keep_blank_values=True, max_num_fields=64)
        return dict(reversed(pairs))

    @property
    def wants_websocket(self) -> bool:
        return (
            self.headers.get("upgrade", "").lower() == "websocket"
            and "upgrade" in self.headers.get("connection", "").lower()
        )


def parse(head: bytes) -> Head:
    """Raises BadRequest."""
    lines = head.decode("latin-1").split("\r\n")
    try:
        method, target, version = lines[0].split(" ")
    except ValueError:
        raise BadRequest("the request line has three words") from None
    headers: dict[str, str] = {}
    for line in lines[1:]:
        if not line:
            break
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequest("a header is a name, a colon and a value")
        name = name.lower()
        value = value.strip()
        if name in headers:
            value = headers[name] + ("; " if name == "cookie" else ",") + value
        headers[name] = value
    return Head(method, target, version, headers)


def head_of(method: str, target: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The same bytes from a request that somebody else has read."""
    lines = [f"{method} {target} HTTP/1.1".encode("latin-1", "replace")]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join(lines) + END_OF_HEAD


def environ_of(head: bytes, peer: tuple[str, int]) -> dict[str, Any]:
    """What python-socketio's connect handlers get, with the peer's real address."""
    request = parse(head)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "PATH_INFO": unquote(request.path),
        "QUERY_STRING": request.query_string,
        "RAW_URI": request.target,
        "SCRIPT_NAME": "",
        "SERVER_NAME": request.headers.get("host", "").partition(":")[0],
        "SERVER_PORT": request.headers.get("host", "").partition(":")[2] or "80",
        "SERVER_PROTOCOL": request.version,
        "SERVER_SOFTWARE": "callmeter",
        "REMOTE_ADDR": peer[0],
        "REMOTE_PORT": str(peer[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.headers.get("x-forwarded-proto", "http").partition(",")[0].strip(),
        "wsgi.errors": sys.stderr,
        "wsgi.async": True,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in request.headers.items():
        key = name.upper().replace("-", "_")
        environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
    return environ


def same_origin(origin: str, host: str) -> bool:
    """A page of this very server: browsers always send the host they connect to."""
    try:
        return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:  # brackets that hold no address
        return False
