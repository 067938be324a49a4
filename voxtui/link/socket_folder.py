"""Finds a folder for a UNIX socket of this process.  Before step 2.

It knows how short the path of a socket must be; not what the socket is for.
"""

from __future__ import annotations

import os
import tempfile

from shared.settings import SOCKET_PATH_MAX
from voxtui.errors import Misconfigured


def socket_folder() -> str:
    """Finds a directory of this user whose path leaves room for `/voxd-12345678/voxd.sock`.  Raises Misconfigured."""
    room = SOCKET_PATH_MAX - len("/voxd-12345678/voxd.sock") - 1
    for place in (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"):
        if place and len(os.fsencode(place)) <= room and os.access(place, os.W_OK | os.X_OK):
            return place
    raise Misconfigured("There is no directory for a socket: set TMPDIR to a short path that can be written to.")
