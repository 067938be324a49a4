"""Serves the web page at `/`: the files of `page/` as they are, and the table of metrics.  Not in the path.

It knows files and the headers that restrict what browsers do with them; not sessions, keys or what the scripts do.  The
page itself needs no key, because it holds no data; what its scripts ask for needs one, as from any client.

The headers promise: scripts and styles come from this origin only, never inline, and no text is taken for markup;
requests go to this origin only; no other page can frame it; its address, which may hold the token, is sent to nobody.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.latency import METRICS

FOLDER = Path(__file__).parent / "page"
KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
HEADERS = {
    "Cache-Control": "no-cache",  # browsers ask each time, so that the page and its modules are of one version
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def files() -> dict[str, bytes]:
    """The content for each path.  Everything that is served is listed here, so no path can lead to another file."""
    found = {f"/page/{file.name}": file.read_bytes() for file in sorted(FOLDER.iterdir()) if file.suffix in KINDS}
    return {"/": found.pop("/page/index.html"), "/page/metrics.js": metrics_module().encode(), **found}


def metrics_module() -> str:
    """The table of `shared.latency` as a JavaScript module, so that the page cannot miss a metric."""
    rows = [{"name": each.name, "meaning": each.meaning, "source": each.source, "page": each.page} for each in METRICS]
    about = "// The table of metrics, written by voxd/web/page_files.py from shared/latency.py."
    return f"{about}\nexport const METRICS = {json.dumps(rows, ensure_ascii=False)};\n"


PATHS = frozenset(files())


def routes() -> Iterator[Route]:
    """The routes.  Files are read once: the page does not change under a running daemon."""
    for path, body in files().items():
        yield Route(path, _Served(body, KINDS[Path(path).suffix or ".html"]).answer)


class _Served:
    def __init__(self, body: bytes, kind: str) -> None:
        self._body = body
        self._tag = f'"{sha256(self._body).hexdigest()[:32]}"'
        self._headers = {**HEADERS, "Content-Type": kind, "ETag": self._tag}

    async def answer(self, request: Request) -> Response:
        known = request.headers.get("if-none-match", "")
        if self._tag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
            return Response(status_code=304, headers=self._headers)
        return Response(self._body, headers=self._headers)
