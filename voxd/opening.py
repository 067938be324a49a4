"""What a session is before its client has said anything.  Before step 4.

It knows the operator's settings and what a URL may ask for; not sessions, nor who is let in.
"""

from __future__ import annotations

import secrets

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
)
from shared.settings import Settings


def first_config(
    session_id: str, settings: Settings, model: str, wanted: set[str], *, transcription: bool
) -> AnySession:
    """A session before its client has said anything."""
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
        resume_token=secrets.token_urlsafe(24) if resume else None,
        targets=_targets(settings) if "metrics" in wanted else None,
    )
    if transcription:
        sound = AudioInput(transcription=Transcription(), turn_detection=detection)
        return TranscriptionSession(id=session_id, audio=TranscriptionAudio(input=sound), voxd=voxd)
    audio = RealtimeAudio(input=AudioInput(turn_detection=detection))
    return RealtimeSession(id=session_id, model=model, audio=audio, voxd=voxd)


def _targets(settings: Settings) -> dict[str, float]:
    """The roadmap's keys in the words of the glossary."""
    wanted = settings.performance_targets
    return {
        "ttft_server_ms": settings.streaming.latency_target_ms,
        "ttft_engine_ms": wanted.ttft_ms,
        "total_ms": wanted.total_latency_ms,
    }
