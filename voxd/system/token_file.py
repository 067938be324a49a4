"""The bearer token of TCP listeners: made once, and kept in a file that only its owner can read.  Not in the path.

It knows files; not who asks for the token or who checks it.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path

MOST = 4096  # bytes that are read of a token file


class TokenError(Exception):
    """The token file cannot be used; the message says why and what to do."""


def load_or_make(path: Path) -> str:
    """The token: 43 URL-safe characters (32 random bytes).  If there is no file, it is made with mode 0600.

    Raises TokenError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return load(path)
    except OSError as error:
        raise TokenError(f"{path}: cannot be made: {error.strerror}") from error
    token = secrets.token_urlsafe(32)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(token + "\n")
    except OSError as error:
        path.unlink()  # an empty file would make every later start fail
        raise TokenError(f"{path}: cannot be written: {error.strerror}") from error
    return token


def load_credential(path: Path) -> str:
    """The token from a credential of systemd.  Owner and mode are not checked: systemd guards the directory, and the
    file may belong to root and show the bits of an access list.  Raises TokenError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TokenError(f"{path}: cannot be read: {error.strerror}") from error
    return _token(data, path, "see LoadCredential= in voxd.service")


def load(path: Path) -> str:
    """The token in a file.  Raises TokenError if others can read it, if it belongs to another user, or if it holds no
    token."""
    try:  # O_NONBLOCK: opening a FIFO must not wait for a writer
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        why = (
            "is a symbolic link, which is not followed"
            if error.errno == errno.ELOOP
            else f"cannot be read: {error.strerror}"
        )
        raise TokenError(f"{path}: {why}") from error
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise TokenError(f"{path}: is not a regular file; expected a file with the token in it")
        if facts.st_uid not in (0, os.geteuid()):
            raise TokenError(f"{path}: belongs to another user (uid {facts.st_uid})")
        if facts.st_mode & 0o077:
            mode = stat.S_IMODE(facts.st_mode)
            raise TokenError(f"{path}: mode {mode:04o} lets others read it; run: chmod 600 {path}")
        data = os.read(descriptor, MOST)
    finally:
        os.close(descriptor)
    return _token(data, path, "remove it and a new token is made")


def _token(data: bytes, path: Path, remedy: str) -> str:
    """The only word of a file; it must fit into a header.  Raises TokenError."""
    words = data.split()
    if not words:
        raise TokenError(f"{path}: is empty; {remedy}")
    if len(words) > 1 or not words[0].isascii() or not words[0].decode("ascii").isprintable():
        raise TokenError(f"{path}: expected one word of ASCII characters; {remedy}")
    return words[0].decode("ascii")
