"""The session object of the wire: what a client may configure, and what `session.created` / `session.updated` show.

Step 5.  Pure; a part of `shared.events`.  It knows shapes and defaults, not what a setting does; fields without effect
say so in their annotation (`Idle`), so that clients can be told.
A `session.update` is a deep merge into the current object, checked as a whole: all or nothing.  Every field of the
published types is here (`tests/voxd/session/test_published.py` walks them): what the API takes is kept and echoed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shared.given import Idle, given
from shared.languages import language_of
from shared.parts import Instructions, MaxTokens
from shared.refusals import OFF, WireError, explain_value, refuse_moved

Json = dict[str, Any]
Rate = Literal[8000, 16000, 24000, 48000]
Ms = Annotated[int, Meta(ge=0, le=86_400_000)]
DelayMs = Annotated[int, Meta(ge=80, le=2400, multiple_of=80)]

DELAYS: dict[str, int] = {"minimal": 160, "low": 240, "medium": 480, "high": 960, "xhigh": 2400}  # ms
_TEXT = Idle("answers are text")
_TOOLS = Idle("no engine calls tools")
_PLATFORM = Idle("it belongs to OpenAI's platform")


class Part(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Base of the parts of a session.  A field that was never given is UNSET and left out."""


class Format(Part, frozen=True):
    """The format of mono audio.  `audio/pcm` is s16le at `rate` Hz (24 000 unless told); pcmu and pcma are
    G.711 at 8 kHz, without a rate."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
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

    model: str | UnsetType = UNSET
    language: str | UnsetType = UNSET
    languages: tuple[str, ...] | UnsetType = UNSET
    prompt: str | UnsetType = UNSET
    keywords: tuple[str, ...] | UnsetType = UNSET
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] | UnsetType = UNSET


class ServerVad(Part, frozen=True, tag_field="type", tag="server_vad"):
    """Turn-taking by voice.  Values that this server cannot serve are limited (`voxd.session.terms`) and echoed so."""

    threshold: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.5
    prefix_padding_ms: Ms = 300
    silence_duration_ms: Ms = 500
    idle_timeout_ms: Annotated[Ms | UnsetType, Idle("nobody is asked to go on")] = UNSET
    model_version: Annotated[str | UnsetType, Idle("there is one model for it")] = UNSET
    create_response: bool = True
    interrupt_response: bool = True


class SemanticVad(Part, frozen=True, tag_field="type", tag="semantic_vad"):
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    model_version: Annotated[str | UnsetType, Idle("there is one model for it")] = UNSET
    create_response: bool = True
    interrupt_response: bool = True


TurnDetection = ServerVad | SemanticVad


class NoiseReduction(Part, frozen=True):
    type: str | UnsetType = UNSET
    strength: float | UnsetType = UNSET


class AudioInput(Part, frozen=True):
    """`transcription` and `turn_detection` are null while they are switched off."""

    format: Format = Format()
    transcription: Transcription | None = None
    noise_reduction: Annotated[NoiseReduction | UnsetType | None, Idle("sound is heard as it comes")] = UNSET
    turn_detection: TurnDetection | None = ServerVad()


class AudioOutput(Part, frozen=True):
    """The output of audio, kept without effect: answers are text."""

    format: Annotated[Format, _TEXT] = Format()
    voice: Annotated[str | Json, _TEXT] = "none"
    speed: Annotated[float, _TEXT] = 1.0


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
    hurry: bool = False  # a file: as fast as it goes, behind those who speak; its final events tell where words lie
    delay_ms: DelayMs | None = None
    transcribe: str | None = None
    respond: str | None = None
    resume_token: str | None = None
    targets: dict[str, float] | None = None  # metric -> ms: what the operator wants of answers; told with `metrics`

    @property
    def aware(self) -> bool:
        """Whether the client has opted in to any extension, and so expects voxd's own events."""
        return self.metrics or self.provisional or self.binary_audio or self.resume or self.hurry


class RealtimeSession(Part, frozen=True, tag_field="type", tag="realtime", omit_defaults=False):
    """The configuration of a conversation."""

    id: str
    model: str
    object: str = "realtime.session"
    output_modalities: tuple[Literal["text", "audio"], ...] = ("text",)
    instructions: Instructions = ""
    tools: Annotated[tuple[Json, ...], _TOOLS] = ()
    tool_choice: Annotated[str | Json, _TOOLS] = "auto"
    parallel_tool_calls: Annotated[bool | UnsetType, _TOOLS] = UNSET
    max_output_tokens: MaxTokens | Literal["inf"] = "inf"
    reasoning: Annotated[Json | UnsetType, Idle("answers come without it")] = UNSET
    tracing: Annotated[str | Json | UnsetType | None, _PLATFORM] = UNSET
    truncation: Annotated[str | Json, Idle("each engine has its own way to shorten a conversation")] = "auto"
    prompt: Annotated[Json | UnsetType | None, _PLATFORM] = UNSET
    include: Annotated[tuple[str, ...] | UnsetType, Idle("there is nothing to add")] = UNSET
    expires_at: int | UnsetType = UNSET
    audio: RealtimeAudio = RealtimeAudio()
    voxd: Extensions = Extensions()


class TranscriptionSession(Part, frozen=True, tag_field="type", tag="transcription", omit_defaults=False):
    """The configuration of a session that transcribes and gives no answers."""

    id: str
    object: str = "realtime.transcription_session"
    include: Annotated[tuple[str, ...] | UnsetType, Idle("there is nothing to add")] = UNSET
    expires_at: int | UnsetType = UNSET
    audio: TranscriptionAudio = TranscriptionAudio()
    voxd: Extensions = Extensions()


AnySession = RealtimeSession | TranscriptionSession

_KINDS: dict[object, type[AnySession]] = {"realtime": RealtimeSession, "transcription": TranscriptionSession}
_READ_ONLY = ("id", "object", "expires_at")
_SERVERS = (
    "transcribe",
    "respond",
    "resume",
    "hurry",
    "resume_token",
    "targets",
)  # of `voxd`: not for clients to change
_WHOLE = ("turn_detection", "format", "tracing", "prompt", "reasoning")  # replaced, not merged


def merge(current: AnySession, patch: Json, *, model: str, unknown: list[str] | None = None) -> AnySession:
    """The session after `session.update{session: patch}`.

    Only what is present changes, and null is "not given" but for what it switches off; a `turn_detection` object
    replaces the old one over its type's defaults; the word of a `delay` becomes its milliseconds, unless these are
    given too.  `model`: for a change to type realtime.  Paths of fields that nobody knows are added to `unknown`.
    Raises WireError (nothing has changed then)."""
    unknown = [] if unknown is None else unknown
    base: Json = msgspec.to_builtins(current)
    kind = patch.get("type") or base["type"]
    known = _KINDS.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise WireError("invalid_value", "A session is 'realtime' or 'transcription'.", "session.type")
    unknown += [f"session.{name}" for name in OFF if patch.get(name, UNSET) is None]
    patch = given(patch, known, "session", unknown)
    refuse_moved(unknown)
    if kind != base["type"]:
        base = _converted(base, kind, model)
    merged = _deep_merge(base, {name: value for name, value in patch.items() if name not in _READ_ONLY})
    _name_delay(patch, merged)
    _name_language(_at(merged, "audio", "input", "transcription") or {})
    for place in (merged, _at(merged, "audio", "input") or {}):
        for name in ("noise_reduction", "tracing", "prompt"):
            if place.get(name, UNSET) is None:
                del place[name]
    if isinstance(merged["voxd"], dict):
        asked = {key: value for key, value in merged["voxd"].items() if key not in _SERVERS}
        merged["voxd"] = asked | {key: value for key, value in base["voxd"].items() if key in _SERVERS}
    if known is RealtimeSession:
        merged["model"] = merged.get("model") or model
    try:
        session: AnySession = msgspec.convert(merged, known)
    except msgspec.ValidationError as error:
        raise explain_value(str(error), None, "session") from None
    return session


def _name_delay(patch: Json, merged: Json) -> None:
    word = (_at(patch, "audio", "input", "transcription") or {}).get("delay")
    exact = "delay_ms" in (_at(patch, "voxd") or {})
    if isinstance(word, str) and word in DELAYS and isinstance(merged["voxd"], dict) and not exact:
        merged["voxd"]["delay_ms"] = DELAYS[word]


def _name_language(hints: Json) -> None:
    """Replaces names of languages by codes; a list of one language becomes `language`.  Raises WireError."""
    path = "session.audio.input.transcription"
    several, asked = hints.get("languages"), hints.get("language")
    if isinstance(several, list):
        hints["languages"] = [_code(each, f"{path}.languages[{i}]") for i, each in enumerate(several)]
        if asked is None and len(several) == 1:
            asked = several[0]
    if isinstance(asked, str):
        hints["language"] = _code(asked, f"{path}.language")
        if not hints["language"]:
            del hints["language"]


def _code(text: Any, param: str) -> Any:
    if not isinstance(text, str):
        return text  # `convert` will say so
    try:
        return language_of(text) or ""
    except ValueError as error:
        raise WireError("invalid_value", f"Invalid value for '{param}': {error}.", param) from None


def _at(tree: object, *path: str) -> Json | None:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else None


def _converted(base: Json, kind: object, model: str) -> Json:
    """The same audio input as a part of the other session type."""
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
        if isinstance(old, dict) and isinstance(value, dict) and key not in _WHOLE:
            value = _deep_merge(old, value)
        merged[key] = value
    return merged
