"""What was agreed: the session's configuration together with what this server can do.  Step 10.

Pure.  It answers questions ("does the client commit by itself?") so that no other part reads the configuration tree.
It does not know audio, items or the engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET

from shared.audio import to_samples
from shared.events import Json, ResponseRequest, SessionUpdate, Warned, WireError
from shared.given import idle
from shared.refusals import named
from shared.session_config import AnySession, RealtimeSession, SemanticVad, ServerVad, Transcription, merge
from voxd.messages import Guide, Role
from voxd.session.intake import VALUES, count_values
from voxd.session.responses import ChunkPolicy
from voxd.session.turns import Rules

MOST_TOLD = 100  # warnings in one session
MAX_BYTES = 900_000  # of the session as it is echoed: messages to clients stay below 1 MiB
Unused = tuple[str, str]  # path of a field, and why it does nothing here

# Until a semantic model exists, eagerness is a silence; ms.
EAGERNESS = {"high": 400, "auto": 700, "medium": 700, "low": 1200}
# What a turn detection may ask for, and what it gets: below the first threshold the noise of a room is speech, above
# the last one nothing is.
RANGES = {"threshold": (0.05, 0.95), "prefix_padding_ms": (0, 2000), "silence_duration_ms": (160, 10_000)}
# A file is not interrupted and nobody waits for the end of a turn, so soft voices and last syllables are worth more
# than haste (measured in docs/SPEED.md).
FILE_THRESHOLD = 0.3
FILE_HANGOVER = to_samples(300)
_TRANSCRIPTION = "session.audio.input.transcription"


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
    languages: tuple[str, ...] = ()  # that the transcriber knows, ISO 639; (): it does not say
    guided_by: tuple[Guide, ...] = ("language", "prompt")  # what of a session's hints the transcriber uses
    track: bool = False  # audio comes as a track, at 16 kHz; the format of the session is nominal

    @property
    def model(self) -> str:
        return self.respond or self.transcribe or "none"


class Terms:
    """The configuration in effect.  `warnings`: fields of the last update that are not as asked for."""

    def __init__(self, config: AnySession, profile: Profile, warnings: tuple[Warned, ...] = ()) -> None:
        self.profile = profile
        self._told: set[tuple[str, str]] = set()
        self.size = 0  # bytes of memory of what clients have set, about
        asked, found = self._known_language(config)
        self.config = self._settled(asked)
        self.warnings = self._once((*warnings, *found, *self._about(asked)))

    def update(self, event: SessionUpdate, *, started: bool, has_items: bool) -> None:
        """Applies a `session.update`, all of it or nothing.  Raises WireError."""
        unknown: list[str] = []
        asked = merge(self.config, event.session, model=self.profile.model, unknown=unknown)
        shown = msgspec.json.encode(asked)
        if len(shown) > MAX_BYTES or count_values(shown.decode()) > VALUES:
            message = f"The session takes at most {MAX_BYTES} bytes of JSON, and {VALUES} values."
            raise WireError("invalid_value", message, "session")
        self._refuse(event.session, asked)
        if started and not self.profile.track and asked.audio.input.format != self.config.audio.input.format:
            message = "The audio format cannot change once audio has been received."
            raise WireError("invalid_value", message, "session.audio.input.format")
        if type(asked) is not type(self.config) and (started or has_items):
            message = "The session type cannot change once there is audio or an item."
            raise WireError("invalid_parameter", message, "session.type")
        self.config = self._settled(asked)
        self.size = 3 * len(shown)  # as objects
        self.warnings = self._once((*self._mapped(event.session, asked), *_unknown(unknown), *self._about(asked)))

    def _refuse(self, patch: Json, asked: AnySession) -> None:
        """Raises WireError for what this server cannot do, or must not replace under strict settings."""
        model = asked.audio.input.transcription.model if asked.audio.input.transcription else UNSET
        if self.profile.strict_models and model not in (UNSET, self.profile.transcribe):
            raise WireError("model_not_found", f"There is no model '{model}' here.", f"{_TRANSCRIPTION}.model")
        if self.profile.strict_modalities and _wants_sound(asked) and "output_modalities" in patch:
            raise WireError("invalid_value", "Answers are text: use ['text'].", "session.output_modalities")
        _, lacking = self._known_language(asked)
        if lacking:
            message = f"{lacking[0].message} Nothing of this update was applied."
            raise WireError("invalid_value", message, lacking[0].param)

    def _known_language(self, asked: AnySession) -> tuple[AnySession, list[Warned]]:
        """The configuration without a language that the transcriber does not know, and the warning for it."""
        sound = asked.audio.input
        code = sound.transcription.language if sound.transcription is not None else UNSET
        if not code or not self.profile.languages or code in self.profile.languages:
            return asked, []
        known = ", ".join(self.profile.languages[:20]) + (" and more" if len(self.profile.languages) > 20 else "")
        message = f"'{self.profile.transcribe}' does not know the language '{code}'; it knows {known}."
        if self.profile.transcribe == "whisper":
            message += (
                " A multilingual model (engine_options.whisper.model: base) or another engine (`voxd engines`) may."
            )
        bare = msgspec.structs.replace(sound.transcription, language=UNSET)  # type: ignore[type-var]  # it has a language
        audio: Any = msgspec.structs.replace(asked.audio, input=msgspec.structs.replace(sound, transcription=bare))
        warned = Warned("language_unknown", message, f"{_TRANSCRIPTION}.language")
        return msgspec.structs.replace(asked, audio=audio), [warned]

    # ── what is not as asked for ────────────────────────────────────────────────────────────────────────────────────

    def _mapped(self, patch: Json, asked: AnySession) -> Iterator[Warned]:
        """Warnings for fields that mean something else here than their names say."""
        model = asked.audio.input.transcription.model if asked.audio.input.transcription else UNSET
        if model not in (UNSET, self.profile.transcribe):
            other = self.profile.transcribe
            message = f"This server has no model '{model}'" + (
                f"; {other} transcribes." if other else ", and none that transcribes."
            )
            yield Warned("model_mapped", message, f"{_TRANSCRIPTION}.model")
        if isinstance(asked, RealtimeSession) and patch.get("model") not in (None, self.profile.model):
            message = f"This server has no model '{asked.model}'; it uses {self.profile.model} instead."
            yield Warned("model_mapped", message, "session.model")
        if asked.voxd.delay_ms is not None and self.profile.delay_ms is None:
            who = self.profile.transcribe or "This server"
            yield Warned("delay_ignored", f"{who} has no delay to set.", f"{_TRANSCRIPTION}.delay")
        if _wants_sound(asked) and "output_modalities" in patch:
            message = "Answers are text; output_modalities is ['text']."
            yield Warned("modality_coerced", message, "session.output_modalities")

    def _about(self, asked: AnySession) -> Iterator[Warned]:
        """Warnings for fields without effect, or with less than was asked for."""
        yield from _unused(idle(asked, "session"))
        hints = asked.audio.input.transcription or Transcription()
        guided = {"language": ("language",), "prompt": ("prompt", "keywords")}
        for guide, names in guided.items():
            if guide not in self.profile.guided_by:
                why = f"{self.profile.transcribe or 'this server'} takes no such hint"
                yield from _unused((f"{_TRANSCRIPTION}.{name}", why) for name in names if getattr(hints, name))
        if hints.languages and len(hints.languages) > 1:
            yield from _unused([(f"{_TRANSCRIPTION}.languages", "the language is found from what is said")])
        detection = asked.audio.input.turn_detection
        if isinstance(detection, ServerVad):
            for name, (low, high) in RANGES.items():
                if not low <= getattr(detection, name) <= high:
                    path = f"session.audio.input.turn_detection.{name}"
                    yield Warned("limited", f"'{path}' is kept between {low} and {high}.", path)

    def about_response(
        self, request: ResponseRequest, unknown: tuple[str, ...], unused: list[Unused]
    ) -> tuple[Warned, ...]:
        """Warnings for fields of a `response.create` that will not be as asked for."""
        found = [*_unknown(unknown), *_unused([*idle(request, "response"), *unused])]
        if request.output_modalities and "audio" in request.output_modalities:
            message = "Answers are text; output_modalities is ['text']."
            found.append(Warned("modality_coerced", message, "response.output_modalities"))
        return self._once(found)

    def about_item(self, unused: list[Unused]) -> tuple[Warned, ...]:
        """Warnings for fields of an item that are kept and not used."""
        return self._once(_unused(unused))

    def _once(self, found: Iterable[Warned]) -> tuple[Warned, ...]:
        """The warnings that have not been given in this session before."""
        fresh = []
        for each in found:
            if (key := _key(each)) not in self._told and len(self._told) < MOST_TOLD:
                self._told.add(key)
                fresh.append(each)
        return tuple(fresh)

    # ── what is in effect ───────────────────────────────────────────────────────────────────────────────────────────

    def _delay(self, config: AnySession) -> int | None:
        """The delay in effect, for the echo."""
        return None if self.profile.delay_ms is None else config.voxd.delay_ms or self.profile.delay_ms

    def revert(self, before: AnySession, *, started: bool) -> None:
        """Goes back to an earlier configuration, because the engine has refused what came after it.  The format stays
        if audio has come in it."""
        if started:
            sound = msgspec.structs.replace(before.audio.input, format=self.config.audio.input.format)
            audio: Any = msgspec.structs.replace(before.audio, input=sound)
            before = msgspec.structs.replace(before, audio=audio)
        self.config, self.size = before, 3 * len(msgspec.json.encode(before))

    def untell(self, warnings: Iterable[Warned]) -> None:
        """These have not reached the client after all."""
        self._told.difference_update(map(_key, warnings))

    def _settled(self, config: AnySession) -> AnySession:
        """The configuration in effect for one that was asked for, so that the echo tells the truth."""
        engine, sound = self.profile.transcribe, config.audio.input
        if sound.transcription is not None:
            conversation = isinstance(config, RealtimeSession)
            asked = msgspec.structs.replace(sound.transcription, model=engine or UNSET)
            sound = msgspec.structs.replace(sound, transcription=None if conversation and engine is None else asked)
        if isinstance(sound.turn_detection, ServerVad):
            vad = sound.turn_detection
            kept = {name: min(max(getattr(vad, name), low), high) for name, (low, high) in RANGES.items()}
            sound = msgspec.structs.replace(sound, turn_detection=msgspec.structs.replace(vad, **kept))
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
        """Whether the client ends its turns itself."""
        return self.config.audio.input.turn_detection is None

    @property
    def conversation(self) -> bool:
        return isinstance(self.config, RealtimeSession)

    @property
    def asked(self) -> Transcription:
        return self.config.audio.input.transcription or Transcription()

    @property
    def language(self) -> str | None:
        """The language that the transcriber is told, ISO 639; None: it finds out."""
        return self.asked.language or None

    @property
    def hints(self) -> str:
        """Words and names that the transcriber is told to expect."""
        return ", ".join(filter(None, (self.asked.prompt or "", *(self.asked.keywords or ()))))

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
        """Whether the client is told transcripts."""
        return self.config.audio.input.transcription is not None

    @property
    def answers_by_itself(self) -> bool:
        """Whether the end of a turn starts a response."""
        detection = self.config.audio.input.turn_detection
        return "respond" in self.roles and detection is not None and detection.create_response

    @property
    def answers_in_vain(self) -> bool:
        """Whether the client expects an answer at the end of a turn and there is no responder."""
        detection = self.config.audio.input.turn_detection
        return (
            self.conversation and self.profile.respond is None and detection is not None and detection.create_response
        )

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
        """The turn rules: the server's, with the client's changes."""
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
        threshold, hangover = vad.threshold, base.hangover
        if self.config.voxd.hurry and threshold == base.threshold:  # nobody has chosen another
            threshold, hangover = min(threshold, FILE_THRESHOLD), max(hangover, FILE_HANGOVER)
        return Rules(threshold, padding, silence, tentative, base.onset, hangover, base.limit)


def _key(warned: Warned) -> tuple[str, str]:
    """What is told once: a field, whichever of a list's entries has it."""
    return warned.code, re.sub(r"\[\d+\]", "[]", warned.param)


def _wants_sound(asked: AnySession) -> bool:
    return isinstance(asked, RealtimeSession) and "audio" in asked.output_modalities


def _unused(found: Iterable[Unused]) -> Iterator[Warned]:
    for path, why in found:
        yield Warned("no_effect", f"'{path}' is kept and has no effect here: {why}.", path)


def _unknown(paths: Iterable[str]) -> Iterator[Warned]:
    for path in named(tuple(paths)):
        yield Warned("unknown_field", f"voxd does not know the field '{path}'; it was left out.", path)
