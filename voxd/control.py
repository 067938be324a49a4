"""Talks to a running voxd through its control socket, for `voxd status` and `voxd stop`.

It knows one HTTP GET over a UNIX socket; not what the answer means.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path


class NotRunning(Exception):
    """Nobody answers on the control socket."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def status(path: Path) -> dict[str, object]:
    """What `/status` says.  Raises NotRunning; PermissionError if this user may not ask."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/status")
        answer = json.loads(connection.getresponse().read())
    except (FileNotFoundError, ConnectionError, http.client.HTTPException, TimeoutError, ValueError) as error:
        raise NotRunning(f"no voxd answers at {path}") from error
    finally:
        connection.close()
    return dict(answer)
