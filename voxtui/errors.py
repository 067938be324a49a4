"""Ways in which voxd or sound cannot be had, for whoever tries again, exits or tells.  Each text is for people and
says what is wrong and what to do.  Pure."""

from __future__ import annotations


class ClientError(Exception):
    """The connection cannot be had, or is over."""


class Unreachable(ClientError):
    """Nobody answers, or not a voxd.  Trying again may help: a network comes back, a daemon is started."""


class NotReady(Unreachable):
    """A voxd that still loads its engine; `progress`: how far it is."""

    def __init__(self, text: str, progress: str) -> None:
        super().__init__(text)
        self.progress = progress


class Full(Unreachable):
    """A voxd whose slots are all taken."""


class Misconfigured(Unreachable):
    """Trying again does not help: a person must change something first (a key, a host key, an installation)."""


class Refused(ClientError):
    """The token is missing or wrong; trying again does not help."""


class SourceError(Exception):
    """There is no sound to be had from here."""
