"""The errors for a voxd or a sound that cannot be had, by what the caller should do.  Pure; not in the path.

Each text is for people and says what is wrong and what to do.  It does not know who shows it."""

from __future__ import annotations


class ClientError(Exception):
    """The connection could not be opened, or is over."""


class Unreachable(ClientError):
    """Nobody answers, or what answers is not a voxd.  Trying again may help: a network comes back, a daemon is
    started."""


class NotReady(Unreachable):
    """A voxd that still loads its engine; `progress`: how far it is."""

    def __init__(self, text: str, progress: str) -> None:
        super().__init__(text)
        self.progress = progress


class Full(Unreachable):
    """A voxd whose slots are all taken."""


class Misconfigured(Unreachable):
    """Trying again does not help: a person must change something first (a key, a host key, an installation)."""


class TokenRefused(ClientError):
    """The token is missing or wrong; trying again does not help."""


class SourceError(Exception):
    """There is no sound to be had from here."""
