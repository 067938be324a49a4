"""Joins the events of a session into one transcript with times, and writes it in the formats of the REST API.  Step 11
of a packet's path, for files.

Pure.  The texts of turns are joined in the order in which they were spoken.  It does not know HTTP, audio files or
engines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shared import events
from shared.events import Json


@dataclass(slots=True)
class CaptionTurn:
    """One turn of the session; times are ms of the file, None while they are unknown."""

    start_ms: int | None = None
    end_ms: int | None = None
    text: str = ""
    given: int = 0  # characters of `text` that are part of the transcript already
    announced: bool = False
    done: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """A turn with text; times in seconds."""

    start: float
    end: float
    text: str


class FileTranscript:
    """Builds the transcript of a file from events, in order; `receive` returns the text that an event adds."""

    def __init__(self) -> None:
        self._turns: dict[str, CaptionTurn] = {}
        self.text = ""

    def receive(self, event: events.ServerEvent) -> str:
        match event:
            case events.SpeechStarted():
                self._turn(event.item_id).start_ms = event.audio_start_ms
            case events.SpeechStopped():
                self._turn(event.item_id).end_ms = event.audio_end_ms
            case events.Committed():
                self._turn(event.item_id).announced = True
            case events.TranscriptionDelta():
                self._turn(event.item_id).text += event.delta
            case events.TranscriptionCompleted():
                self._turn(event.item_id).done = True
            case _:
                return ""
        new = "".join(self._flow())
        self.text += new
        return new

    def _turn(self, item_id: str) -> CaptionTurn:
        return self._turns.setdefault(item_id, CaptionTurn())

    def _flow(self) -> Iterator[str]:
        """The new text, in spoken order: a turn adds its text when all turns before it are done."""
        last = self.text[-1:]
        for turn in self._turns.values():
            new = turn.text[turn.given :]
            if not turn.text[: turn.given].strip():
                new = new.lstrip()
                new = f" {new}" if new and last and not last.isspace() else new
            turn.given = len(turn.text)
            last = new[-1:] or last
            yield new
            if not turn.done:
                return

    @property
    def owed_from_ms(self) -> int | None:
        """The start of the oldest turn that has ended but whose text is not final; None if there is no such turn."""
        owed = [turn.start_ms or 0 for turn in self._turns.values() if turn.announced and not turn.done]
        return min(owed, default=None)

    @property
    def open(self) -> bool:
        """Has some turn not ended yet?"""
        return not all(turn.announced for turn in self._turns.values())

    @property
    def settled(self) -> bool:
        """Does every turn have its final text?"""
        return all(turn.done for turn in self._turns.values())

    def segments(self, silence_ms: int, length_ms: int) -> list[Segment]:
        """The turns with text.  `silence_ms`: the silence that ended each turn, which is not part of it."""
        found: list[Segment] = []
        for turn in self._turns.values():
            if turn.start_ms is None or not turn.text.strip():
                continue
            end = length_ms if turn.end_ms is None else min(turn.end_ms - silence_ms, length_ms)
            found.append(Segment(turn.start_ms / 1000, max(turn.start_ms, end) / 1000, turn.text.strip()))
        return found


# ── formats ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def srt(segments: list[Segment]) -> str:
    """SubRip."""
    cues = (f"{n}\n{_span(each, ',')}\n{each.text}\n" for n, each in enumerate(segments, 1))
    return "\n".join(cues)


def vtt(segments: list[Segment]) -> str:
    """WebVTT, with markup characters escaped."""
    cues = (f"{_span(each, '.')}\n{_escaped(each.text)}\n" for each in segments)
    return "\n".join(("WEBVTT\n", *cues))


def verbose(text: str, segments: list[Segment], language: str | None, length_ms: int) -> Json:
    """`verbose_json`.  Fields that voxd's engines do not give (tokens, probabilities) are there but empty, because
    strict clients expect them."""
    untold = {
        "seek": 0,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": 0.0,
        "compression_ratio": 0.0,
        "no_speech_prob": 0.0,
    }
    listed = [
        {"id": n, "start": each.start, "end": each.end, "text": each.text, **untold} for n, each in enumerate(segments)
    ]
    return {
        "task": "transcribe",
        "language": language or "unknown",
        "duration": length_ms / 1000,
        "text": text,
        "segments": listed,
        "usage": usage(length_ms),
    }


def diarized(segments: list[Segment]) -> list[Json]:
    """The segments of `diarized_json`, all of speaker A: no engine here tells speakers apart."""
    return [
        {
            "type": "transcript.text.segment",
            "id": f"seg_{n}",
            "speaker": "A",
            "start": each.start,
            "end": each.end,
            "text": each.text,
        }
        for n, each in enumerate(segments)
    ]


def usage(length_ms: int) -> Json:
    """The `usage` of a transcription: the length of the audio."""
    return {"type": "duration", "seconds": length_ms / 1000}


def _span(segment: Segment, point: str) -> str:
    return f"{_clock(segment.start, point)} --> {_clock(segment.end, point)}"


def _clock(seconds: float, point: str) -> str:
    whole, ms = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{point}{ms:03d}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
