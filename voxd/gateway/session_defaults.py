"""The configuration of a session before its client has said anything, and what this server offers it.  Before step 4.

It knows the operator's settings and what a URL may ask for; not sessions, nor who may have one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from msgspec import structs

from shared.audio import to_samples
from shared.parts import Json, Warned
from shared.refusals import NAME
from shared.session_config import (
    AnySession,
    AudioInput,
    Extensions,
    RealtimeAudio,
    RealtimeSession,
    ServerVad,
    Transcription,
    TranscriptionAudio,
    TranscriptionSession,
    merge,
)
from shared.settings import Settings
from voxd.messages import Ready
from voxd.session.responses import ChunkPolicy
from voxd.session.terms import Profile
from voxd.session.turns import Rules
from voxd.telemetry.turn_meter import Targets

KNOWN = {
    "intent": ("transcription",),
    "voxd_ext": ("metrics", "provisional", "binary", "resume", "hurry"),
    "dialect": ("ga", "vllm"),
}


def first_config(
    session_id: str, settings: Settings, model: str, wanted: set[str], *, transcription: bool
) -> AnySession:
    """A session's configuration before its client has said anything.  `wanted`: the extensions that it asked for."""
    vad = settings.vad
    detection = ServerVad(
        threshold=vad.threshold,
        prefix_padding_ms=vad.prefix_padding_ms,
        silence_duration_ms=vad.silence_duration_ms,
    )
    resume = "resume" in wanted
    voxd = Extensions(
        metrics="metrics" in wanted,
        provisional="provisional" in wanted,
        binary_audio="binary" in wanted,
        resume=resume,
        hurry="hurry" in wanted,
        resume_token=secrets.token_urlsafe(24) if resume else None,
        targets=asdict(targets(settings)) if "metrics" in wanted else None,
    )
    if transcription:
        sound = AudioInput(transcription=Transcription(), turn_detection=detection)
        return TranscriptionSession(id=session_id, audio=TranscriptionAudio(input=sound), voxd=voxd)
    audio = RealtimeAudio(input=AudioInput(turn_detection=detection))
    return RealtimeSession(id=session_id, model=model, audio=audio, voxd=voxd)


def targets(settings: Settings) -> Targets:
    """The targets of the settings, by the names of the metrics."""
    wanted = settings.performance_targets
    return Targets(settings.streaming.latency_target_ms, wanted.ttft_ms, wanted.total_latency_ms)


def odd_values(query: Mapping[str, str]) -> tuple[Warned, ...]:
    """Warnings for what a URL asks for and nobody here knows: it is left out."""
    found = []
    for name, known in KNOWN.items():
        values = query.get(name, "").split(",") if name == "voxd_ext" else [query.get(name, "")]
        if odd := [value.strip()[:NAME] for value in values if value.strip() not in (*known, "")]:
            message = f"'{name}' of the URL does not know '{odd[0]}'; it knows {', '.join(known)}."
            found.append(Warned("unknown_value", message, name))
    return tuple(found)


def beginning(
    query: Mapping[str, str], settings: Settings, model: str, patches: Sequence[Json]
) -> Callable[[str], AnySession]:
    """A function that makes a session's first configuration from its id.

    The URL overrides the server's defaults, and each of `patches` overrides what came before; a patch is like the
    session of a `session.update`.  The function raises WireError for a patch that is not valid."""
    wanted = {ext.strip() for ext in query.get("voxd_ext", "").split(",")}
    transcription = query.get("intent") == "transcription"

    def config(session_id: str) -> AnySession:
        session = first_config(session_id, settings, model, wanted, transcription=transcription)
        for patch in patches:
            session = merge(session, patch, model=model)
        return session

    return config


def for_good(config: Callable[[str], AnySession]) -> Callable[[str], AnySession]:
    """The same for a session that cannot be resumed."""

    def once(session_id: str) -> AnySession:
        session = config(session_id)
        return structs.replace(session, voxd=structs.replace(session.voxd, resume=False, resume_token=None))

    return once


def profile(settings: Settings, ready: Ready, *, track: bool = False) -> Profile:
    """What a session that begins with these settings is offered by the engines that are ready.  `track`: its audio
    comes as a WebRTC track."""
    vad, chunks, server = settings.vad, settings.chunked_response, settings.server
    rules = Rules(
        threshold=vad.threshold,
        padding=to_samples(vad.prefix_padding_ms),
        silence=to_samples(vad.silence_duration_ms),
        tentative=to_samples(vad.tentative_ms),
        onset=to_samples(vad.onset_ms),
        hangover=to_samples(vad.hangover_ms),
        limit=to_samples(vad.max_utterance_s * 1000),
    )
    policy = ChunkPolicy(chunks.min_words_per_chunk, chunks.max_words_per_chunk, chunks.chunk_timeout_ms * 1000)
    return Profile(
        transcribe=ready.transcribe,
        respond=ready.respond,
        speculates=ready.speculates,
        strict_models=server.strict_models,
        strict_modalities=server.strict_modalities,
        rules=rules,
        chunks=policy,
        delay_ms=ready.delay_ms,
        reads_text=ready.reads_text,
        languages=ready.languages,
        guided_by=ready.guided_by,
        track=track,
    )
