"""What was agreed: the session's configuration together with what this server can do.

Pure.  It answers questions ("does the client commit by itself?") so that no other part reads the configuration tree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET

from shared.audio import to_samples
from shared.events import Json, SessionUpdate, WireError, explain_value
from shared.session_config import AnySession, RealtimeSession, SemanticVad, ServerVad, Transcription, merge
from voxd.messages import Role
from voxd.session.intake import VALUES, count_values
from voxd.session.responses import ChunkPolicy
from voxd.session.turns import Rules

MAX_BYTES = 900_000  # of the session as it is echoed: messages to clients stay below 1 MiB

# Until a semantic model exists, eagerness is a silence; ms.
EAGERNESS = {"high": 400, "auto": 700, "medium": 700, "low": 1200}


@dataclass(frozen=True, slots=True)
class Profile:
    """What this server offers to every session: engines by name (None: nobody has the role) and defaults."""

    transcribe: str | None
    respond: str | None
    speculates: bool = False
    strict_models: bool = False  # an unknown model is an error; else it means the engine that is there
    strict_modalities: bool = False  # asking for audio answers is an error; else they are text
    rules: Rules = field(default_factory=Rules)
    chunks: ChunkPolicy = field(default_factory=ChunkPolicy)
    delay_ms: int | None = None  # of live text, unless a session says otherwise; None: the engine has no such setting
    reads_text: bool = False  # the responder answers what the transcriber has written
    track: bool = False  # audio comes as a track, at 16 kHz; the format of the session is nominal

    @property
    def model(self) -> str:
        return self.respond or self.transcribe or "none"


class Terms:
    def __init__(self, config: AnySession, profile: Profile) -> None:
        self.profile = profile
        self.notices: list[tuple[str, str]] = []  # what of the last update is not as asked for
        self.config = self._before = self._settled(config)

    def update(self, event: SessionUpdate, *, started: bool, has_items: bool) -> None:
        """`session.update`: all or nothing.  Raises WireError."""
        event_id = None if event.event_id is UNSET else event.event_id
        try:
            config = merge(self.config, event.session, model=self.profile.model)
        except msgspec.ValidationError as error:
            raise explain_value(str(error), event_id, "session") from None
        shown = msgspec.json.encode(config)
        if len(shown) > MAX_BYTES or count_values(shown.decode()) > VALUES:
            message = f"The session takes at most {MAX_BYTES} bytes of JSON, and {VALUES} values."
            raise WireError("invalid_value", message, "session")
        self._check(event.session, config)
        if started and not self.profile.track and config.audio.input.format != self.config.audio.input.format:
            message = "The audio format cannot change once audio has been received."
            raise WireError("invalid_value", message, "session.audio.input.format")
        if type(config) is not type(self.config) and (started or has_items):
            message = "The session type cannot change once there is audio or an item."
            raise WireError("invalid_parameter", message, "session.type")
        self._before, self.config = self.config, self._settled(config)

    def _check(self, patch: Json, asked: AnySession) -> None:
        """What is not as asked for: an error if this server is strict, else a notice."""
        self.notices = []
        model = asked.audio.input.transcription.model if asked.audio.input.transcription else None
        if model not in (None, self.profile.transcribe):
            if self.profile.strict_models:
                param = "session.audio.input.transcription.model"
                raise WireError("model_not_found", f"There is no model '{model}' here.", param)
            self.notices.append(("model_mapped", f"'{model}' is served by {self.profile.transcribe or 'nobody'}."))
        if asked.voxd.delay_ms is not None and self.profile.delay_ms is None:
            self.notices.append(("delay_ignored", f"{self.profile.transcribe or 'This server'} has no delay to set."))
        if isinstance(asked, RealtimeSession) and "audio" in asked.output_modalities and "output_modalities" in patch:
            if self.profile.strict_modalities:
                raise WireError("invalid_value", "Answers are text: use ['text'].", "session.output_modalities")
            self.notices.append(("modality_coerced", "Answers are text; output_modalities is ['text']."))

    def _delay(self, config: AnySession) -> int | None:
        """The one in effect, for the echo."""
        return None if self.profile.delay_ms is None else config.voxd.delay_ms or self.profile.delay_ms

    def revert(self) -> None:
        """The engine refused what the last update asked for: the configuration before it is in effect."""
        self.config = self._before

    def _settled(self, config: AnySession) -> AnySession:
        """What was asked for -> what is in effect, so that the echo tells the truth."""
        engine, sound = self.profile.transcribe, config.audio.input
        if sound.transcription is not None:
            conversation = isinstance(config, RealtimeSession)
            asked = msgspec.structs.replace(sound.transcription, model=engine)
            sound = msgspec.structs.replace(sound, transcription=None if conversation and engine is None else asked)
        changes: dict[str, Any] = {
            "audio": msgspec.structs.replace(config.audio, input=sound),
            "voxd": msgspec.structs.replace(
                config.voxd, transcribe=engine, respond=self.profile.respond, delay_ms=self._delay(config)
            ),
        }
        if isinstance(config, RealtimeSession):
            changes |= {"output_modalities": ("text",), "model": self.profile.model}
        return msgspec.structs.replace(config, **changes)

    @property
    def manual(self) -> bool:
        """Does the client end its turns itself?"""
        return self.config.audio.input.turn_detection is None

    @property
    def conversation(self) -> bool:
        return isinstance(self.config, RealtimeSession)

    @property
    def asked(self) -> Transcription:
        return self.config.audio.input.transcription or Transcription()

    @property
    def roles(self) -> tuple[Role, ...]:
        """The engines that a stream of this session needs."""
        wanted = self.shows_text or (self.profile.reads_text and self.conversation)
        roles: tuple[Role, ...] = ("transcribe",) if wanted and self.profile.transcribe else ()
        return (*roles, "respond") if self.profile.respond and self.conversation else roles

    @property
    def transcribes(self) -> bool:
        return "transcribe" in self.roles

    @property
    def shows_text(self) -> bool:
        """Is the client told what the transcriber writes?"""
        return self.config.audio.input.transcription is not None

    @property
    def answers_by_itself(self) -> bool:
        """Does the end of a turn start a response?"""
        detection = self.config.audio.input.turn_detection
        return "respond" in self.roles and detection is not None and detection.create_response

    @property
    def interrupts(self) -> bool:
        detection = self.config.audio.input.turn_detection
        return detection is not None and detection.interrupt_response

    @property
    def instructions(self) -> str:
        return self.config.instructions if isinstance(self.config, RealtimeSession) else ""

    @property
    def max_tokens(self) -> int | None:
        limit = self.config.max_output_tokens if isinstance(self.config, RealtimeSession) else "inf"
        return None if limit == "inf" else int(limit)

    @property
    def rules(self) -> Rules:
        """Turn rules: the server's, with what the client may change."""
        base, detection = self.profile.rules, self.config.audio.input.turn_detection
        if detection is None:
            return Rules(base.threshold, base.padding, None, base.tentative, base.onset, base.hangover, None)
        if isinstance(detection, SemanticVad):
            vad = ServerVad(silence_duration_ms=EAGERNESS[detection.eagerness])
        else:
            vad = detection
        silence = to_samples(vad.silence_duration_ms)
        tentative = min(base.tentative, silence)
        padding = to_samples(vad.prefix_padding_ms)
        return Rules(vad.threshold, padding, silence, tentative, base.onset, base.hangover, base.limit)
