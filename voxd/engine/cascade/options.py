"""The options of the engine `cascade`, checked, and the key for its chat server.  Not in the packet's path.

The key is never in a file: an option names the variable of the environment that holds it.  Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from msgspec import Meta, Struct, structs

from voxd.engine.contract import Unusable
from voxd.engine.options import SECRET, read, refuse

WHERE = "engine_options.cascade"
Url = Annotated[
    str, Meta(description="http://HOST[:PORT]/PATH or https://..., without a user name or query", extra=SECRET)
]
KeyVariable = Annotated[
    str,
    Meta(
        pattern=r"\A[A-Za-z_][A-Za-z0-9_]*\Z",
        description="the name of an environment variable, never the key itself",
        extra=SECRET,
    ),
]
ModelName = Annotated[str, Meta(min_length=1, description="the name of a model that the server offers")]


class CascadeOptions(Struct, frozen=True):
    """Where the chat server is and how it is asked: `engine_options.cascade` of the settings file."""

    url: Url = "http://localhost:8080/v1"  # requests go to URL/chat/completions
    model: ModelName | None = None  # None: the first that the server offers
    key_env: KeyVariable | None = None  # the variable that holds the key
    max_tokens: Annotated[int, Meta(ge=1, le=100_000)] | None = None  # of one answer; a session may ask for fewer
    # None: the server's own.
    temperature: Annotated[float, Meta(ge=0, le=2, description="a number from 0 to 2")] | None = None
    timeout_s: Annotated[float, Meta(ge=1, le=600, description="a number from 1 to 600")] = 30  # without new text

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> CascadeOptions:
        """Raises `Unusable`; its text names the option."""
        found = read("cascade", cls, given)
        if not _usable(found.url):
            refuse("cascade", cls, "url", found.url)
        return structs.replace(found, url=found.url.rstrip("/"))

    @property
    def local(self) -> bool:
        """Is the server on this machine?"""
        return urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")

    def key(self, environment: Mapping[str, str]) -> str | None:
        """The key for the server, None if it wants none.  Raises `Unusable`."""
        if self.key_env is None:
            return None
        where = f"{WHERE}.key_env: the environment variable {self.key_env}"
        if not (key := environment.get(self.key_env, "").strip()):
            raise Unusable(f"{where} is not set; set it where voxd is started")
        if not (key.isascii() and key.isprintable()):
            raise Unusable(f"{where} does not hold a key, but other characters; copy the key again")
        return key


def _usable(url: str) -> bool:
    try:
        parts: SplitResult = urlsplit(url)
        named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # the port is no number, or a bracket is not closed
        return False
    plain = url.isprintable() and not any(char.isspace() for char in url)
    return plain and named and parts.scheme in ("http", "https") and not (parts.query or parts.fragment or "@" in url)
