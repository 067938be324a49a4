"""Lets a client that asks for a session while the engine loads wait a moment, instead of refusing it.  Before step 3.

A restart takes seconds, but most clients try only three or four times within five seconds: LiveKit gives up after 4.1 s
of refusals.  A request that waits uses up none of those tries.  After HOLD_S the application answers as it would have
done at once (503 and Retry-After); every known client waits at least 10 s for an answer.

It knows ASGI and which paths need an engine; not engines, sessions or why none is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from shared.urls import CALLS, REALTIME, TRANSCRIPTIONS

HOLD_S = 8.0  # below voxd.web.door.HANDSHAKE_S
HELD_LIMIT = 32  # requests that wait at the same time; further ones are answered at once
PATHS = frozenset({REALTIME, CALLS, TRANSCRIPTIONS})


class HoldWhileLoading:
    """ASGI middleware.  `loading`: is an engine about to become ready?  `changed` is notified when that changes."""

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
