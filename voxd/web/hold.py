"""Who asks for a session while the engine loads is kept waiting a moment instead of refused.  Before step 3.

A restart takes seconds, and most clients try again only three or four times within five: LiveKit gives a session up
after 4.1 s of refusals.  A request that is held costs none of its tries.  After HOLD_S the application answers as it
would have at once (503 and Retry-After); no client waits less than 10 s for an answer.

It knows ASGI and which paths need an engine; not engines, sessions or why there is none yet.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

HOLD_S = 8.0  # below voxd.web.door.HANDSHAKE_S
HELD_LIMIT = 32  # at the same time; an honest crowd is smaller
PATHS = frozenset({"/v1/realtime", "/v1/realtime/calls", "/v1/audio/transcriptions"})


class Held:
    """ASGI middleware.  `loading`: will there be an engine, but not yet?  `changed` is notified when that changes."""

    def __init__(self, app: ASGIApp, loading: Callable[[], bool], changed: asyncio.Condition) -> None:
        self._app, self._loading, self._changed = app, loading, changed
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") in PATHS and self._loading() and self._held < HELD_LIMIT:
            self._held += 1
            try:
                await self._until_settled()
            finally:
                self._held -= 1
        await self._app(scope, receive, send)

    async def _until_settled(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HOLD_S), self._changed:
                await self._changed.wait_for(lambda: not self._loading())
