"""The way to a voxd, held open for as long as a command needs it.  Before step 2 of a packet's path.

It knows that there are direct ways and SSH tunnels, and that a way must be closed again; not how either works.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from voxtui.link.ssh_tunnel import Tunnel
from voxtui.link.target import Direct, Route, Target


@asynccontextmanager
async def opened(
    target: Target, token: str | None = None, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[Route]:
    """Opens the way and closes it at the end, however that comes.  Through ssh no token is needed.  Raises
    Misconfigured."""
    route = Direct(target, token) if target.ssh is None else Tunnel(target, environ)
    try:
        yield route
    finally:
        await route.close()
