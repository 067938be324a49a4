"""`engine_options.cascade`, checked.  The key is never in a file: they name a variable of the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from urllib.parse import SplitResult, urlsplit

from voxd.engine.contract import Unusable

WHERE = "engine_options.cascade"


@dataclass(frozen=True, slots=True)
class Options:
    """Where the chat server is and how it is asked."""

    url: str = "http://localhost:8080/v1"  # requests go to URL/chat/completions
    model: str | None = None  # None: the first that the server offers
    key_env: str | None = None  # the variable that holds the key
    max_tokens: int | None = None  # of one answer; a session may ask for fewer
    temperature: float | None = None  # None: the server's own
    timeout_s: float = 30  # without new text
    key: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, options: Mapping[str, object], environment: Mapping[str, str]) -> Options:
        """Raises `Unusable` with the key and what is allowed."""
        known = [each.name for each in fields(cls) if each.name != "key"]
        for key, value in options.items():
            if key not in known:
                raise Unusable(f"{WHERE}.{key}: unknown; known are {', '.join(known)}")
            _check(key, value)
        found = cls(**options)  # type: ignore[arg-type]  # every value was checked against its key
        changes = {"url": found.url.rstrip("/"), "key": _key(found.key_env, environment)}
        return cls(**{**options, **changes})  # type: ignore[arg-type]  # the same

    @property
    def local(self) -> bool:
        """Is the server on this machine?"""
        return urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")


def _key(name: str | None, environment: Mapping[str, str]) -> str | None:
    if name is None:
        return None
    if not (key := environment.get(name, "").strip()):
        raise Unusable(f"{WHERE}.key_env: the environment variable {name} is not set; set it where voxd is started")
    if not (key.isascii() and key.isprintable()):
        raise Unusable(f"{WHERE}.key_env: what the environment variable {name} holds cannot be a key; copy it again")
    return key


def _check(key: str, value: object) -> None:
    where = f"{WHERE}.{key}"
    if key == "url":
        if not isinstance(value, str) or not _usable(value):
            raise Unusable(f"{where}: allowed is http://HOST[:PORT]/PATH or https://..., without a user name or query")
    elif key == "key_env":
        # The value is not shown: people put the key itself here.
        if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise Unusable(f"{where}: allowed is the name of an environment variable, never the key itself")
    elif key == "model":
        if not isinstance(value, str) or not value:
            raise Unusable(f"{where}: {value!r}; allowed is the name of a model that the server offers")
    elif key == "max_tokens":
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 100_000:
            raise Unusable(f"{where}: {value!r}; allowed is a whole number from 1 to 100000")
    else:
        low, high = (0, 2) if key == "temperature" else (1, 600)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise Unusable(f"{where}: {value!r}; allowed is a number from {low} to {high}")


def _usable(url: str) -> bool:
    try:
        parts: SplitResult = urlsplit(url)
        named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is none, a bracket that is not closed
        return False
    plain = url.isprintable() and not any(char.isspace() for char in url)
    return plain and named and parts.scheme in ("http", "https") and not (parts.query or parts.fragment or "@" in url)
