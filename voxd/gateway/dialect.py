"""Finds out which protocol a client of `/v1/realtime` speaks, and translates vLLM's into that of the OpenAI API (GA).
Steps 4 and 11 of a packet's path.

Pure.  It knows the messages of both protocols; of sessions only GA events in and out.  The time of creation is given to
it, and of audio it knows only the length.

vLLM's realtime clients use the same path and the same URL.  So a connection begins UNDECIDED, is answered as GA, and
its first telling event decides.  What an event tells is its *sign*:

    MODEL     `session.update` with `model` and no `session`, which only vLLM has
    FINAL     `input_audio_buffer.commit` with the key `final`, which only vLLM has
    READY     the first event is a commit (so the buffer is empty) and the URL names neither a model nor an intent
    EMPTY     the first event is a commit, but the URL is one of GA: an error in GA
    AUDIO     `input_audio_buffer.append`, which both have; from here on the audio format is fixed
    GA_ONLY   any other event of GA

TABLE says which state follows.  A pair that is not in it changes nothing, and neither does input that is not an event.
`?dialect=ga|vllm` decides beforehand.

In vLLM's dialect audio is 16 kHz and there is no voice activity detection: a commit begins a transcription (it has no
effect here, because text comes from the first audio on), and a commit with `final: true` ends it.  A transcription is
one or more GA items, because one that goes on for minutes is committed in pieces before the session's buffer is full.
Text is sent in the order of the audio.  Each transcription ends with one `transcription.done`, or with an error.

Bounds: the audio that the session accepts bounds the pieces.  Of a text longer than TEXT, `transcription.done` repeats
only the end.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import msgspec
from msgspec import UNSET

from shared import events
from shared.events import WireError
from voxd.session.intake import whole

RATE = 16_000  # Hz: the only one of this dialect
SAMPLE = 2  # bytes
LEAST = RATE // 10 * SAMPLE  # bytes: GA refuses to commit less than 100 ms
PIECE = 240 * RATE * SAMPLE  # bytes after which a transcription that goes on is committed: the buffer holds 300 s
TEXT = 200_000  # characters: a server message stays below 1 MiB
AUDIO_TOKENS = 12.5  # per second: frames of 80 ms, as Voxtral counts its prompt
CODES = frozenset({"invalid_json", "invalid_event", "invalid_audio", "unknown_event", "model_not_found"})
OTHER = "processing_error"
NONE: Mapping[bytes, bytes] = {}


class State(Enum):
    UNDECIDED = auto()
    GA = auto()
    VLLM = auto()


class Sign(Enum):
    MODEL = auto()
    FINAL = auto()
    READY = auto()
    EMPTY = auto()
    AUDIO = auto()
    GA_ONLY = auto()


TABLE: dict[tuple[State, Sign], State] = {
    (State.UNDECIDED, Sign.MODEL): State.VLLM,
    (State.UNDECIDED, Sign.FINAL): State.VLLM,
    (State.UNDECIDED, Sign.READY): State.VLLM,
    (State.UNDECIDED, Sign.EMPTY): State.GA,
    (State.UNDECIDED, Sign.AUDIO): State.GA,
    (State.UNDECIDED, Sign.GA_ONLY): State.GA,
}

# ── the wire of vLLM ────────────────────────────────────────────────────────────────────────────────────────────────


class _Probe(msgspec.Struct):
    """The fields of an event on which its sign depends."""

    type: Any = None
    session: Any = UNSET
    model: Any = UNSET
    final: Any = UNSET


class _Update(msgspec.Struct, tag_field="type", tag="session.update"):
    model: str | None = None


class _Append(msgspec.Struct, tag_field="type", tag="input_audio_buffer.append"):
    audio: bytes


class _Commit(msgspec.Struct, tag_field="type", tag="input_audio_buffer.commit"):
    final: bool | None = None


class _Greeting(events.SessionCreated, tag="session.created", frozen=True, kw_only=True):
    """A `session.created` for both kinds of client: GA's, with the two fields of vLLM's."""

    id: str
    created: int


class _Created(msgspec.Struct, tag_field="type", tag="session.created"):
    id: str
    created: int


class _Delta(msgspec.Struct, tag_field="type", tag="transcription.delta"):
    delta: str


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _Done(msgspec.Struct, tag_field="type", tag="transcription.done"):
    text: str
    usage: _Usage


class _Error(msgspec.Struct, tag_field="type", tag="error"):
    error: str
    code: str


_ClientEvent = _Update | _Append | _Commit
_probe = msgspec.json.Decoder(_Probe)
_client: msgspec.json.Decoder[_ClientEvent] = msgspec.json.Decoder(_ClientEvent)
_dump = msgspec.json.Encoder().encode


def _sign(data: str, *, bare: bool) -> Sign | None:
    """The sign of a message; None if it is not an event."""
    try:
        found = _probe.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return None
    match found.type:
        case "session.update" if found.session is UNSET and found.model is not UNSET:
            return Sign.MODEL
        case "input_audio_buffer.commit" if found.final is not UNSET:
            return Sign.FINAL
        case "input_audio_buffer.commit":
            return Sign.READY if bare else Sign.EMPTY
        case "input_audio_buffer.append":
            return Sign.AUDIO
        case _:
            return Sign.GA_ONLY


def _parse(data: str) -> _ClientEvent:
    """Parses an event of vLLM.  Raises WireError with vLLM's codes."""
    try:
        return _client.decode(data)
    except RecursionError:
        raise WireError("invalid_json", "The event is nested too deeply.") from None
    except msgspec.DecodeError as error:
        raise _explain(data, error) from None


def _explain(data: str, error: msgspec.DecodeError) -> WireError:
    try:
        found = _probe.decode(data)
    except msgspec.ValidationError:
        return WireError("invalid_event", "An event is a JSON object with a string `type`.")
    except (msgspec.DecodeError, RecursionError):
        return WireError("invalid_json", "Invalid JSON")
    if found.type == "input_audio_buffer.append":
        return WireError("invalid_audio", "Invalid audio data")
    if found.type in ("session.update", "input_audio_buffer.commit"):
        return WireError("invalid_event", f"Invalid event: {error}")
    return WireError("unknown_event", f"Unknown event type: {str(found.type)[:100]}")


# ── the translation ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Piece:
    """One GA item, which is a transcription or a part of one."""

    item_id: str = ""  # not known before its first text or its commit
    committed: bool = False
    last: bool = False  # ends its transcription
    settled: bool = False
    failure: str | None = None
    held: str = ""  # text that waits for the pieces before this one
    begun: bool = False  # some of its text has left
    seconds: float = 0.0


class _Transcriptions:
    """Puts the answers of the session into the order of the audio."""

    def __init__(self) -> None:
        self._pieces = deque([_Piece()])  # oldest first; the last one takes audio
        self._text, self._tokens, self._seconds = "", 0, 0.0

    def close(self, *, last: bool) -> None:
        """The session is being sent a commit, which ends the present piece."""
        self._pieces[-1].committed, self._pieces[-1].last = True, last
        self._pieces.append(_Piece())

    def committed(self, item_id: str) -> None:
        if self._find(item_id) is None and (piece := self._unnamed()):
            piece.item_id = item_id

    def said(self, item_id: str, text: str) -> list[bytes]:
        piece = self._find(item_id) or self._pieces[-1]
        piece.item_id = piece.item_id or item_id
        piece.held += text
        return self._flow()

    def settled(self, item_id: str, seconds: float = 0.0, failure: str | None = None) -> list[bytes]:
        piece = self._find(item_id)
        if piece is None or not piece.committed:
            return []
        piece.settled, piece.seconds, piece.failure = True, seconds, failure
        return self._flow()

    def refused(self) -> list[bytes]:
        """The session has refused the oldest commit that it has not confirmed, for want of audio."""
        if piece := self._unnamed():
            piece.settled = True
        return self._flow()

    def _find(self, item_id: str) -> _Piece | None:
        return next((piece for piece in self._pieces if piece.item_id == item_id), None)

    def _unnamed(self) -> _Piece | None:
        return next((p for p in self._pieces if p.committed and not p.settled and not p.item_id), None)

    def _flow(self) -> list[bytes]:
        """The messages that can be sent now, because nothing earlier is missing."""
        out: list[bytes] = []
        while True:
            piece = self._pieces[0]
            if piece.held:
                out.append(self._delta(piece))
            if not piece.settled:
                return out
            self._pieces.popleft()
            self._seconds += piece.seconds
            if piece.failure is not None:
                out.append(_dump(_Error(piece.failure, OTHER)))
            elif piece.last:
                out.append(self._done())
            if piece.last:
                self._text, self._tokens, self._seconds = "", 0, 0.0

    def _delta(self, piece: _Piece) -> bytes:
        text, piece.held = piece.held, ""
        if self._text and not piece.begun and not self._text[-1].isspace() and not text[0].isspace():
            text = f" {text}"
        piece.begun = True
        self._text = (self._text + text)[-TEXT:]
        self._tokens += 1
        return _dump(_Delta(text))

    def _done(self) -> bytes:
        """The end of a transcription.  Tokens are estimates: one for 80 ms of audio or for a piece of text."""
        prompt = math.ceil(self._seconds * AUDIO_TOKENS)
        return _dump(_Done(self._text, _Usage(prompt, self._tokens, prompt + self._tokens)))


class Dialect:
    """The dialect of one connection.  `models`: the names that `session.update` may give; None: any name."""

    def __init__(self, query: Mapping[str, str], created: int, models: Collection[str] | None = None) -> None:
        """`query`: that of the URL.  `created`: the time now, in seconds of the Unix epoch."""
        self._bare = not ("model" in query or "intent" in query)
        self._created, self._models = created, models
        self.state = {"ga": State.GA, "vllm": State.VLLM}.get(query.get("dialect", ""), State.UNDECIDED)
        self._configured = False
        self._filled = 0  # bytes since the last commit
        self._transcriptions = _Transcriptions()

    def receive(self, data: str, audio: Mapping[bytes, bytes] = NONE) -> list[events.ClientEvent]:
        """The events for the session that a JSON message stands for; its long `audio` comes separately.  Raises
        WireError, after which the connection goes on."""
        if self.state is State.GA:
            return [whole(events.parse_client(data), audio)]
        if self.state is State.UNDECIDED:
            sign = _sign(data, bare=self._bare)
            after = self.state if sign is None else TABLE.get((self.state, sign), self.state)
            if after is not State.VLLM:
                event = whole(events.parse_client(data), audio)
                self.state = after
                return [event]
            self.state = after
        return self._translate(_parse(data), audio)

    def send(self, event: events.ServerEvent) -> list[bytes]:
        """The messages for the client that an event of the session stands for."""
        if self.state is State.VLLM:
            return self._answer(event)
        if self.state is State.UNDECIDED and self._bare and isinstance(event, events.SessionCreated):
            fields = msgspec.structs.asdict(event)
            return [events.dump(_Greeting(**fields, id=event.session.id, created=self._created))]
        return [events.dump(event)]

    # ── vLLM ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _translate(self, event: _ClientEvent, audio: Mapping[bytes, bytes]) -> list[events.ClientEvent]:
        if isinstance(event, _Update):
            self._check(event.model)
        out: list[events.ClientEvent] = []
        if not self._configured:
            self._configured = True
            sound = {"format": {"type": "audio/pcm", "rate": RATE}, "transcription": {}, "turn_detection": None}
            out.append(events.SessionUpdate(session={"type": "transcription", "audio": {"input": sound}}))
        match event:
            case _Append():
                out += self._append(audio.get(event.audio, event.audio))
            case _Commit(final=True):
                out += self._end()
        return out

    def _check(self, model: str | None) -> None:
        if model is not None and self._models is not None and model not in self._models:
            raise WireError("model_not_found", f"The model `{model[:100]}` does not exist.")

    def _append(self, audio: bytes) -> list[events.ClientEvent]:
        out: list[events.ClientEvent] = []
        while self._filled + len(audio) >= PIECE:
            part, audio = audio[: PIECE - self._filled], audio[PIECE - self._filled :]
            out += [events.AudioAppend(part), *self._commit(last=False)]
        if audio:
            out.append(events.AudioAppend(audio))
            self._filled += len(audio)
        return out

    def _end(self) -> list[events.ClientEvent]:
        """Ends a transcription.  If there is too little audio for a commit, silence is added, so that even an empty
        transcription is handled like any other."""
        missing = LEAST - self._filled // SAMPLE * SAMPLE
        silence: list[events.ClientEvent] = [events.AudioAppend(bytes(missing))] if missing > 0 else []
        return [*silence, *self._commit(last=True)]

    def _commit(self, *, last: bool) -> list[events.ClientEvent]:
        self._filled = 0
        self._transcriptions.close(last=last)
        return [events.AudioCommit()]

    def _answer(self, event: events.ServerEvent) -> list[bytes]:
        match event:
            case events.TranscriptionDelta():
                return self._transcriptions.said(event.item_id, event.delta)
            case events.TranscriptionCompleted():
                seconds = event.usage.get("seconds", 0.0)
                return self._transcriptions.settled(event.item_id, float(seconds))
            case events.TranscriptionFailed():
                return self._transcriptions.settled(event.item_id, failure=event.error.message)
            case events.Committed():
                self._transcriptions.committed(event.item_id)
            case events.Error() if event.error.code == "input_audio_buffer_commit_empty":
                return self._transcriptions.refused()
            case events.Error():
                code = event.error.code if event.error.code in CODES else OTHER
                return [_dump(_Error(event.error.message, code))]
            case events.SessionCreated():
                return [_dump(_Created(event.session.id, self._created))]
            case events.SessionUpdated() if event.session.voxd.transcribe is None:
                return [_dump(_Error("This server has no model that transcribes.", "model_not_found"))]
        return []
