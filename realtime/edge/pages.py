"""The browser client: the files `web/dist` holds, from memory, and its page for every address that is one of its own.

Nothing is looked up on disk by a name from the network: the built files are read once into a table, again when the page
has been rebuilt, and a path that is not in the table is not there. Files whose names carry a hash of their content may
be kept for ever; the page itself, which names them, never, for each answer has a nonce of its own.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from realtime.adapters.logs import in_words
from realtime.edge.csp import NONCE_PLACE
from realtime.edge.security_headers import nonce_of

log = structlog.get_logger()

PACKAGED = Path(__file__).parent / "page"
DIST = PACKAGED if PACKAGED.exists() else Path(__file__).parents[2] / "web" / "dist"
"""Inside an installed package, else where the checkout builds it."""
HASHED = re.compile(r"^/assets/.+-[\w-]{8,}\.\w+$")
"""How Vite names what it builds."""

NEVER_PAGES = ("/api/", "/bff/", "/dev/", "/socket.io/", "/assets/")
"""Under these an unknown address is an error, not a page of the client's."""

TEXTS = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
"""As the standards have it: what the machine's own table says differs between machines."""

NO_BUILD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>CallMeter</title>
<h1>The server runs, its page is not built</h1>
<p>There is no <code>web/dist</code>. With Node.js and npm installed, <code>scripts/serve</code> builds it at its start,
or run <code>npm ci &amp;&amp; npm run build</code> in <code>web/</code>; then reload.</p>
<p>Everything else works: <a href="/health">health</a>, <a href="/ready">readiness</a>, the API
(<a href="/openapi.json">OpenAPI</a>, <a href="/asyncapi.json">AsyncAPI</a>).</p>
</html>
"""


@dataclass(frozen=True, slots=True)
class File:
    content_type: str
    body: bytes
    gzipped: bytes | None
    etag: str
    immutable: bool

    @classmethod
    def read(cls, path: Path, address: str) -> File:
        body = path.read_bytes()
        content_type = TEXTS.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        textual = content_type.startswith("text/") or content_type.endswith(("json", "xml"))
        return cls(
            content_type=content_type,
            body=body,
            gzipped=gzip.compress(body, 6, mtime=0) if textual and len(body) > 1024 else None,
            etag=hashlib.sha256(body).hexdigest()[:32],
            immutable=HASHED.match(address) is not None,
        )


class Pages:
    def __init__(self, dist: Path = DIST) -> None:
        self._dist = dist
        self._built: Any = None
        self._files: Mapping[str, File] = {}
        self._index: str | None = None

    def answer(self, request: web.Request) -> web.Response | None:
        """The file or page at the request's address; None if it is neither."""
        self._read_if_rebuilt()
        address = request.path
        if file := self._files.get(address):
            return _file_answer(request, file)
        if address.startswith(NEVER_PAGES) or "." in address.rpartition("/")[2] or not _wants_html(request):
            return None
        html = self._index or NO_BUILD
        return web.Response(
            text=html.replace(NONCE_PLACE, nonce_of(request)),
            content_type="text/html",
            status=200 if self._index or address == "/" else 404,
            headers={hdrs.CACHE_CONTROL: "no-store"},
        )

    def _read_if_rebuilt(self) -> None:
        index = self._dist / "index.html"
        try:
            found = index.stat()
            built = (found.st_ino, found.st_mtime_ns)
        except OSError:
            built = None
        if built == self._built:
            return
        self._built = built
        self._files, self._index = {}, None
        if built is not None:
            self._read(index)

    def _read(self, index: Path) -> None:
        try:
            self._index = index.read_text("utf-8")
            self._files = {
                address: File.read(path, address)
                for path in sorted(self._dist.rglob("*"))
                if path.is_file() and path != index and not path.name.startswith(".")
                for address in ["/" + path.relative_to(self._dist).as_posix()]
            }
        except OSError as error:  # being rebuilt at this moment
            log.warning("the built page could not be read", error=in_words(error))
            self._built = None

    @property
    def middleware(self) -> Any:
        """Serves what no route knows. It is no route itself, so that other methods are told 404, not 405."""

        @web.middleware
        async def pages(request: web.Request, handler: Handler) -> web.StreamResponse:
            unknown = isinstance(request.match_info.http_exception, web.HTTPNotFound)
            if unknown and request.method in {"GET", "HEAD"} and (answer := self.answer(request)) is not None:
                return answer
            return await handler(request)

        return pages


def _wants_html(request: web.Request) -> bool:
    accept = request.headers.get(hdrs.ACCEPT, "*/*")
    return request.path == "/" or "text/html" in accept


def _file_answer(request: web.Request, file: File) -> web.Response:
    headers = {
        hdrs.CACHE_CONTROL: "public, max-age=31536000, immutable" if file.immutable else "no-cache",
        hdrs.ETAG: f'"{file.etag}"',
        hdrs.VARY: hdrs.ACCEPT_ENCODING,
    }
    if any(known.value in {file.etag, "*"} for known in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    body = file.body
    if file.gzipped is not None and "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
        body = file.gzipped
        headers[hdrs.CONTENT_ENCODING] = "gzip"
    charset = "utf-8" if file.content_type.startswith("text/") else None
    return web.Response(body=body, content_type=file.content_type, charset=charset, headers=headers)
