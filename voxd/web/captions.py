"""Joins the events of a session into one transcript with times, and writes it in the JSON of the REST API.  Step 11
of a packet's path, for files.

Pure.  The texts of turns are joined in the order in which they were spoken.  It does not know HTTP, audio files or
engines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from shared import events
from shared.captions import CaptionWord, FileTurn, words_of
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
    words: tuple[CaptionWord, ...] = ()
    language: str | None = None


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
            case events.TranscriptionCompleted(voxd_words=words, voxd_language=language):
                turn = self._turn(event.item_id)
                turn.done, turn.language = True, language or None
                turn.words = tuple(CaptionWord(each.text, each.start_ms, each.end_ms) for each in words or ())
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
    def open(self) -> bool:
        """Has some turn not ended yet?"""
        return not all(turn.announced for turn in self._turns.values())

    @property
    def settled(self) -> bool:
        """Does every turn have its final text?"""
        return all(turn.done for turn in self._turns.values())

    @property
    def estimated(self) -> bool:
        """Is there a turn with text of which the engine has not told when its words were said?"""
        return any(turn.text.strip() and not turn.words for turn in self._turns.values())

    @property
    def language(self) -> str | None:
        """What was spoken for the longest time, as far as the engine has told."""
        lengths: Counter[str] = Counter()
        for turn in self._turns.values():
            if turn.language is not None:
                lengths[turn.language] += len(turn.text)
        return max(lengths, key=lambda each: lengths[each], default=None)

    def turns(self, silence_ms: int, length_ms: int) -> list[FileTurn]:
        """The turns with text.  `silence_ms`: the silence that ended each turn, which is not part of it."""
        found: list[FileTurn] = []
        for turn in self._turns.values():
            if turn.start_ms is None or not turn.text.strip():
                continue
            end = length_ms if turn.end_ms is None else min(turn.end_ms - silence_ms, length_ms)
            words = tuple(replace(each, end_ms=min(each.end_ms, length_ms)) for each in turn.words)
            found.append(FileTurn(turn.start_ms, max(turn.start_ms, end), turn.text.strip(), words))
        return found


# ── formats ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def verbose(
    text: str, turns: list[FileTurn], language: str | None, length_ms: int, granularities: Collection[str]
) -> Json:
    """`verbose_json`.  Fields that voxd's engines do not give (tokens, probabilities) are there but empty, because
    strict clients expect them.  `granularities`: segment, word; segments if nothing is asked for."""
    untold = {
        "seek": 0,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": 0.0,
        "compression_ratio": 0.0,
        "no_speech_prob": 0.0,
    }
    whole: Json = {"task": "transcribe", "language": language, "duration": length_ms / 1000, "text": text}
    if "segment" in granularities or not granularities:
        whole["segments"] = [
            {"id": n, "start": each.start_ms / 1000, "end": each.end_ms / 1000, "text": each.text, **untold}
            for n, each in enumerate(turns)
        ]
    if "word" in granularities:
        words = (word for each in turns for word in words_of(each))
        whole["words"] = [{"word": w.text, "start": w.start_ms / 1000, "end": w.end_ms / 1000} for w in words]
    return whole | {"usage": usage(length_ms)}


def diarized(turns: list[FileTurn]) -> list[Json]:
    """The segments of `diarized_json`, all of speaker A: no engine here tells speakers apart."""
    return [
        {
            "type": "transcript.text.segment",
            "id": f"seg_{n}",
            "speaker": "A",
            "start": each.start_ms / 1000,
            "end": each.end_ms / 1000,
            "text": each.text,
        }
        for n, each in enumerate(turns)
    ]


def usage(length_ms: int) -> Json:
    """The `usage` of a transcription: the length of the audio."""
    return {"type": "duration", "seconds": length_ms / 1000}
