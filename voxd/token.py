"""The bearer token of TCP listeners: made once, kept in a file that only its owner can read.

It knows files; not who asks for the token or compares it.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path


class TokenError(Exception):
    """The token file cannot be used; the text says why and what to do."""


def load_or_make(path: Path) -> str:
    """The token, 43 URL-safe characters (32 random bytes); the file is made with mode 0600 if there is none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return load(path)
    except OSError as error:
        raise TokenError(f"{path}: cannot be made: {error.strerror}") from error
    token = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
    return token


def load_credential(path: Path) -> str:
    """Of a file whose directory systemd guards: it may belong to root and show the bits of an access list."""
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise TokenError(f"{path}: cannot be read: {error.strerror}") from error
    if not token:
        raise TokenError(f"{path}: is empty; see LoadCredential= in voxd.service")
    return token


def load(path: Path) -> str:
    """Raises TokenError for a file that others can read, that is not ours, or that is empty."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise TokenError(f"{path}: cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor) as file:
        facts = os.fstat(file.fileno())
        if facts.st_uid not in (0, os.geteuid()):
            raise TokenError(f"{path}: belongs to another user (uid {facts.st_uid})")
        if facts.st_mode & 0o077:
            mode = stat.S_IMODE(facts.st_mode)
            raise TokenError(f"{path}: mode {mode:04o} lets others read it; run: chmod 600 {path}")
        token = file.read(4096).strip()
    if not token:
        raise TokenError(f"{path}: is empty; remove it and a new token is made")
    return token
