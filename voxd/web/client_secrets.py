"""Client secrets: keys `ek_...` that are valid for minutes, for a browser page or another machine, and that carry a
session's configuration.  Beside step 3.

A client with the bearer token makes one by `POST /v1/realtime/client_secrets`.  Until it expires it gives access to
every path but that one, any number of times, and its session configuration applies from `session.created` on.  Nothing
is stored on disk: a restart forgets all secrets.  This module knows session configurations; not sessions, nor who may
come in (`voxd.web.gate` asks it).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from secrets import token_urlsafe
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from shared.events import WireError
from shared.given import given
from shared.parts import Json
from shared.refusals import explain_value, named
from shared.session_config import AnySession, RealtimeSession, merge
from shared.urls import CLIENT_SECRETS
from voxd.session.intake import VALUES, count_values
from voxd.web.gate import body_of, offered_key
from voxd.web.problem import HttpProblem

PREFIX = "ek_"
MOST = 10_000
BODY = 256 << 10  # bytes of a request
HELD = 64 << 20  # bytes of all configurations, as JSON
RETRY_S = 60


class TooManySecrets(Exception):
    """There are as many valid secrets as there may be."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A client secret.  `session`: like the session of a `session.update`, {} for none.  `expires_at`: seconds of the
    Unix epoch."""

    value: str
    expires_at: int
    told: bytes  # the session, as JSON: a tenth of the memory

    @property
    def session(self) -> Json:
        return msgspec.json.decode(self.told, type=Json)


class Secrets:
    """All client secrets.

    `clock`: monotonic seconds, by which secrets expire even if the machine's time is changed; `epoch`: seconds of the
    Unix epoch, for what clients are told.  Bounds: MOST and HELD.  At a bound expired secrets are dropped; if there are
    none, no secret is made, because the others are in use."""

    def __init__(self, clock: Callable[[], float], epoch: Callable[[], float]) -> None:
        self._clock, self._epoch = clock, epoch
        # By digest, so that the time of a look-up reveals nothing about other secrets; each with its end by the clock.
        self._secrets: dict[bytes, tuple[float, Secret]] = {}

    def make(self, seconds: int, session: Json) -> Secret:
        """Makes a secret that is valid for so many seconds.  Raises TooManySecrets."""
        told = msgspec.json.encode(session)
        if self._full(told):
            now = self._clock()
            self._secrets = {digest: each for digest, each in self._secrets.items() if each[0] > now}
        if self._full(told):
            raise TooManySecrets
        secret = Secret(PREFIX + token_urlsafe(32), int(self._epoch()) + seconds, told)
        self._secrets[_digest(secret.value)] = self._clock() + seconds, secret
        return secret

    def _full(self, told: bytes) -> bool:
        held = sum(len(each.told) for _, each in self._secrets.values())
        return len(self._secrets) >= MOST or held + len(told) > HELD

    def find(self, key: str) -> Secret | None:
        """The secret of this value, if it has not expired."""
        if not key.startswith(PREFIX):
            return None
        digest = _digest(key)
        if (found := self._secrets.get(digest)) is None:
            return None
        end, secret = found
        if not hmac.compare_digest(_bytes(key), _bytes(secret.value)):
            return None
        if end <= self._clock():
            del self._secrets[digest]
            return None
        return secret

    def holds(self, key: str) -> bool:
        """Is this a valid client secret?"""
        return self.find(key) is not None


def secret_of(scope: Scope, secrets: Secrets) -> Secret | None:
    """The secret that a request or an upgrade came with, even if no key was required."""
    return secrets.find(offered_key(scope))


def _digest(key: str) -> bytes:
    return sha256(_bytes(key)).digest()


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "replace")


# ── the endpoint ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Expiry(msgspec.Struct, frozen=True):
    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Meta(ge=10, le=7200)] = 600


class _Request(msgspec.Struct, frozen=True):
    expires_after: _Expiry = _Expiry()
    session: Json | UnsetType = UNSET


def client_secrets(secrets: Secrets, fresh: Callable[[], AnySession], model: Callable[[], str]) -> Route:
    """The route that makes secrets.  `fresh`: gives a conversation's configuration before its client has said anything;
    `model`: the name of the engine that answers."""

    async def make(request: Request) -> Response:
        try:
            asked = _parse(await body_of(request, BODY))
            session = _effective(fresh(), asked.session or {}, model())
            secret = secrets.make(asked.expires_after.seconds, _patch(asked.session or {}))
        except WireError as error:
            raise HttpProblem(400, error.code, error.message, error.param) from None
        except TooManySecrets:
            message = f"There may be {MOST} unexpired client secrets with {HELD >> 20} MiB of sessions."
            raise HttpProblem(429, "client_secret_limit_reached", message, retry_s=RETRY_S) from None
        told = {"value": secret.value, "expires_at": secret.expires_at, "session": msgspec.to_builtins(session)}
        return JSONResponse(told, headers={"Cache-Control": "no-store"})

    return Route(CLIENT_SECRETS, make, methods=["POST"])


def _parse(body: bytes) -> _Request:
    """The request; an empty body asks for the defaults.  Raises WireError, HttpProblem."""
    if count_values(body.decode("utf-8", "replace")) > VALUES:
        raise HttpProblem(413, "request_too_large", f"The request may have {VALUES} values.")
    unknown: list[str] = []
    try:
        asked: _Request = msgspec.convert(given(msgspec.json.decode(body or b"{}"), _Request, "", unknown), _Request)
    except msgspec.ValidationError as error:
        raise explain_value(str(error), None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError("invalid_json", f"The request is not valid JSON: {error}.") from None
    if unknown:
        raise WireError("unknown_parameter", f"Unknown parameters: {', '.join(named(unknown))}.", named(unknown)[0])
    return asked


def _effective(fresh: AnySession, asked: Json, model: str) -> AnySession:
    """The configuration that the session will begin with.  Raises WireError."""
    session = merge(fresh, asked, model=model)
    if not isinstance(session, RealtimeSession):
        return session
    output = session.audio.output
    if isinstance(output.voice, dict):  # this answer names a voice by a string, even if the request used an object
        output = msgspec.structs.replace(output, voice=str(output.voice.get("id", "none")))
    audio = msgspec.structs.replace(session.audio, output=output)
    return msgspec.structs.replace(session, model=model, output_modalities=("text",), audio=audio)


def _patch(asked: Json) -> Json:
    """What the secret carries: a configuration without a type is for a conversation; without any, the URL decides."""
    return {"type": "realtime"} | asked if asked else {}
