"""The session object of the wire: what a client may configure, and what `session.created` / `session.updated` show.

Pure; a part of `shared.events` in a file of its own.  It knows shapes and defaults, not what a setting does.
A `session.update` is a deep merge into the current object, checked as a whole: all or nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shared.parts import Instructions

Json = dict[str, Any]
Rate = Literal[8000, 16000, 24000, 48000]
Ms = Annotated[int, Meta(ge=0, le=10_000)]
Padding = Annotated[int, Meta(ge=0, le=2_000)]
DelayMs = Annotated[int, Meta(ge=80, le=2400, multiple_of=80)]

DELAYS: dict[str, int] = {"minimal": 160, "low": 240, "medium": 480, "high": 960, "xhigh": 2400}  # ms


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base: unknown keys are refused, which catches configurations of the old beta API."""


class Format(Part, frozen=True, omit_defaults=True):
    """Mono.  `audio/pcm` is s16le at `rate` Hz (24 000 unless told); pcmu and pcma are G.711 at 8 kHz, without a
    rate."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
    rate: Rate | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.type == "audio/pcm" and self.rate is UNSET:
            msgspec.structs.force_setattr(self, "rate", 24_000)
        if self.type != "audio/pcm" and self.rate not in (UNSET, 8000):
            raise ValueError(f"{self.type} is always 8000 Hz")

    @property
    def hz(self) -> int:
        return 8000 if self.rate is UNSET else self.rate


class Transcription(Part, frozen=True):
    """`delay` is the GA enumeration; the exact one is `session.voxd.delay_ms`."""

    model: str | None = None
    language: str | None = None
    prompt: str | None = None
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None


class ServerVad(Part, frozen=True, tag_field="type", tag="server_vad"):
    threshold: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.5
    prefix_padding_ms: Padding = 300
    silence_duration_ms: Annotated[int, Meta(ge=160, le=10_000)] = 500
    idle_timeout_ms: Ms | None = None
    create_response: bool = True
    interrupt_response: bool = True


class SemanticVad(Part, frozen=True, tag_field="type", tag="semantic_vad"):
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


TurnDetection = ServerVad | SemanticVad


class NoiseReduction(Part, frozen=True):
    type: Literal["near_field", "far_field"] | None = None


class AudioInput(Part, frozen=True):
    format: Format = Format(type="audio/pcm")
    transcription: Transcription | None = None
    noise_reduction: NoiseReduction | None = None
    turn_detection: TurnDetection | None = ServerVad()


class AudioOutput(Part, frozen=True):
    """Accepted, echoed, without effect: answers are text."""

    format: Format = Format(type="audio/pcm")
    voice: str | Json = "none"
    speed: float = 1.0


class RealtimeAudio(Part, frozen=True):
    input: AudioInput = AudioInput()
    output: AudioOutput = AudioOutput()


class TranscriptionAudio(Part, frozen=True):
    input: AudioInput = AudioInput(transcription=Transcription())


class Extensions(Part, frozen=True, omit_defaults=True):
    """`session.voxd`: the opt-ins of a client, and (written by the server only) what serves this session."""

    metrics: bool = False
    provisional: bool = False
    binary_audio: bool = False  # audio as binary messages, in the session's format
    resume: bool = False
    delay_ms: DelayMs | None = None
    transcribe: str | None = None
    respond: str | None = None
    resume_token: str | None = None
    targets: dict[str, float] | None = None  # metric -> ms: what the operator wants of answers; told with `metrics`

    @property
    def aware(self) -> bool:
        """Has the client opted in to anything, so that unknown events will not surprise it?"""
        return self.metrics or self.provisional or self.binary_audio or self.resume


class RealtimeSession(Part, frozen=True, tag_field="type", tag="realtime", omit_defaults=False):
    """A conversation."""

    id: str
    model: str
    object: str = "realtime.session"
    output_modalities: tuple[Literal["text", "audio"], ...] = ("text",)
    instructions: Instructions = ""
    tools: tuple[Json, ...] = ()
    tool_choice: str | Json = "auto"
    max_output_tokens: Annotated[int, Meta(ge=1, le=4096)] | Literal["inf"] = "inf"
    tracing: str | Json | None = None
    truncation: str | Json = "auto"
    prompt: Json | None = None
    include: tuple[str, ...] | None = None
    expires_at: int | UnsetType = UNSET
    audio: RealtimeAudio = RealtimeAudio()
    voxd: Extensions = Extensions()


class TranscriptionSession(Part, frozen=True, tag_field="type", tag="transcription", omit_defaults=False):
    """Text of what is said, without answers."""

    id: str
    object: str = "realtime.transcription_session"
    include: tuple[str, ...] | None = None
    expires_at: int | UnsetType = UNSET
    audio: TranscriptionAudio = TranscriptionAudio()
    voxd: Extensions = Extensions()


AnySession = RealtimeSession | TranscriptionSession

_READ_ONLY = ("id", "object", "expires_at")
_SERVERS = ("transcribe", "respond", "resume", "resume_token", "targets")  # of `voxd`: not for clients to change


def merge(current: AnySession, patch: Json, *, model: str) -> AnySession:
    """The session after `session.update{session: patch}`.

    Only what is present changes; null switches off; a `turn_detection` object replaces the old one over its type's
    defaults; the word of a `delay` becomes its milliseconds, unless these are given too.  `model`: for a change to type
    realtime.  Raises msgspec.ValidationError (nothing has changed then)."""
    patch = {key: value for key, value in patch.items() if key not in _READ_ONLY}
    named = (_at(patch, "audio", "input", "transcription") or {}).get("delay")
    exact = "delay_ms" in (_at(patch, "voxd") or {})
    if isinstance(named, str) and named in DELAYS and not exact:
        patch = _deep_merge({"voxd": {"delay_ms": DELAYS[named]}}, patch)
    kind = patch.get("type", current.__struct_config__.tag)
    base: Json = msgspec.to_builtins(current)
    if kind != base["type"]:
        base = _converted(base, kind, model)
    if "turn_detection" in (_at(patch, "audio", "input") or {}):
        base["audio"]["input"].pop("turn_detection")
    merged = _deep_merge(base, patch)
    if isinstance(merged["voxd"], dict):
        asked = {key: value for key, value in merged["voxd"].items() if key not in _SERVERS}
        merged["voxd"] = asked | {key: value for key, value in base["voxd"].items() if key in _SERVERS}
    if merged["type"] == "realtime":
        merged["model"] = merged.get("model") or model
    session: AnySession = msgspec.convert(merged, AnySession)
    return session


def _at(tree: object, *path: str) -> Json | None:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else None


def _converted(base: Json, kind: object, model: str) -> Json:
    """The same audio input under the other session type."""
    sound = dict(base["audio"]["input"])
    fresh: Json = {"type": kind, "id": base["id"], "audio": {"input": sound}, "voxd": base["voxd"]}
    if kind == "transcription":
        sound["transcription"] = sound["transcription"] or {}
    else:
        fresh["model"] = model
    return fresh


def _deep_merge(base: Json, patch: Json) -> Json:
    merged = dict(base)
    for key, value in patch.items():
        old = merged.get(key)
        replaces = key in ("turn_detection", "format", "tracing", "prompt")
        merged[key] = (
            _deep_merge(old, value) if isinstance(old, dict) and isinstance(value, dict) and not replaces else value
        )
    return merged
