"""Client secrets: keys `ek_...` that live for minutes, for a browser page or another machine, and carry a session.

`POST /v1/realtime/client_secrets` makes one for whoever has the bearer token; until it expires it opens everything but
that path, as often as wanted, and the session configuration that it was made with is in effect before
`session.created`.  It knows session configurations as `shared.session_config` does; not sessions, nor who is let in
(`voxd.web.gate` asks).  Nothing is written anywhere: a restart forgets all secrets.
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
    """There are as many unexpired secrets as may be."""


@dataclass(frozen=True, slots=True)
class Secret:
    """`session`: what a `session.update` would say; {} for nothing.  `expires_at`: seconds of the Unix epoch."""

    value: str
    expires_at: int
    told: bytes  # the session, as JSON: a tenth of the memory

    @property
    def session(self) -> Json:
        return msgspec.json.decode(self.told, type=Json)


class Secrets:
    """`clock`: seconds that only go forward, by which secrets expire, whatever is done to the machine's time; `epoch`:
    seconds of the Unix epoch, for what is told.  Bounds: MOST and HELD; at a bound expired ones are dropped, and none
    is made while there are no expired ones, for the others are in use."""

    def __init__(self, clock: Callable[[], float], epoch: Callable[[], float]) -> None:
        self._clock, self._epoch = clock, epoch
        # By digest: looking one up takes no time that tells of another.  Each with its end by the clock.
        self._secrets: dict[bytes, tuple[float, Secret]] = {}

    def make(self, seconds: int, session: Json) -> Secret:
        """Raises TooManySecrets."""
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
        """The unexpired secret of this value."""
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
        """For the gate."""
        return self.find(key) is not None


def secret_of(scope: Scope, secrets: Secrets) -> Secret | None:
    """The secret that a request or an upgrade came with, whether or not a key was wanted."""
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
    """The route.  `fresh`: a conversation's configuration before its client has said anything, with an id of its own;
    `model`: the name of what answers."""

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
    """The session as it will begin.  Raises WireError."""
    session = merge(fresh, asked, model=model)
    if not isinstance(session, RealtimeSession):
        return session
    output = session.audio.output
    if isinstance(output.voice, dict):  # this answer names a voice by a string, whatever it was asked for by
        output = msgspec.structs.replace(output, voice=str(output.voice.get("id", "none")))
    audio = msgspec.structs.replace(session.audio, output=output)
    return msgspec.structs.replace(session, model=model, output_modalities=("text",), audio=audio)


def _patch(asked: Json) -> Json:
    """A configuration without a type is one of a conversation; none at all leaves the type to the URL."""
    return {"type": "realtime"} | asked if asked else {}
