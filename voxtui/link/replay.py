"""What a client keeps so that a broken link costs nothing: sound that is not yet text, and how far it has read.
Beside step 2 of a packet's path.

Pure: positions are samples of the whole capture at 16 kHz, over all links and sessions; the server counts from the
first sample of *its* session, and this is the only place that knows the difference.  It does not know sockets, nor when
to try again.

Bound: `keep` samples that are not settled; at the bound the oldest go, and are counted as lost when a server is met
that never had them.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from shared.audio import PACKET, RATE, Ring, to_ms, to_samples
from shared.events import (
    Ack,
    AudioAppend,
    Metrics,
    Resumed,
    ServerEvent,
    SessionCreated,
    SpeechStarted,
    SpeechStopped,
    SpokenWord,
    TranscriptionCompleted,
    TranscriptionDelta,
    TranscriptionFailed,
)

KEEP = 30 * RATE
ALIGN = RATE // 1000  # a session begins at a whole millisecond, for events tell positions in milliseconds


class Replay:
    """What is kept of one conversation, from its first sample to its last."""

    def __init__(self, keep: int = KEEP) -> None:
        self._ring = Ring(keep)
        self._base = 0  # where the server's session begins
        self._next = 0  # the first sample that has not gone out over the link in use
        self._received = 0  # the server has everything below
        self._settled = 0  # what lies below is text, or never will be
        self._spoken: dict[str, tuple[int, int]] = {}  # utterances that are not yet text: start, end
        self._holes: list[tuple[int, int]] = []  # what was lost above `_settled`, apart and in order
        self._sunk = 0  # samples that were lost below
        self.token: str | None = None
        self.seq = 0  # number of the last event that was read
        self.lost = 0  # samples that no server will ever turn into text

    @property
    def captured(self) -> int:
        """The position behind the newest sample."""
        return self._ring.end

    @property
    def sent(self) -> int:
        """The position below which everything has gone out over the link in use, or need not."""
        return max(self._next, self._ring.start)

    @property
    def unsent(self) -> int:
        """How many samples wait for the link."""
        return self._ring.end - self.sent

    @property
    def received(self) -> int:
        """The position below which the server has acknowledged everything."""
        return self._received

    @property
    def lag(self) -> int:
        """How many captured samples the server has not acknowledged."""
        return self._ring.end - self._received

    def resend(self) -> None:
        """Sends again what went out and is not acknowledged; the server skips what it has."""
        self._next = self._received

    def append(self, pcm: bytes) -> None:
        """Takes consecutive s16le at 16 kHz."""
        self._ring.append(pcm)

    def packet(self, size: int = PACKET) -> AudioAppend | None:
        """The next samples for the link in use, `size` at most; None if all has gone out."""
        if self.unsent == 0:
            return None
        self._lose(self._next, self._ring.start)  # nothing, unless the link is far too slow
        start, pcm = self._ring.read(self.sent, self.sent + size)
        self._next = start + len(pcm) // 2
        return AudioAppend(pcm, voxd_offset=start - self._base)

    def receive(self, event: ServerEvent) -> ServerEvent:
        """Takes what a server of this conversation said; returns it with positions of the capture."""
        self.seq = self.seq if event.voxd_seq is UNSET else event.voxd_seq
        match event:
            case Ack(received_samples=received, settled_samples=settled):
                self._received = self._base + received
                self._settle((self._base + settled) // ALIGN * ALIGN)
            case SpeechStarted(item_id=key, audio_start_ms=ms):
                event = msgspec.structs.replace(event, audio_start_ms=ms + to_ms(self._base))
                self._spoken[key] = (to_samples(event.audio_start_ms), self._ring.end)
            case SpeechStopped(item_id=key, audio_end_ms=ms):
                event = msgspec.structs.replace(event, audio_end_ms=ms + to_ms(self._base))
                start, _ = self._spoken.get(key, (self._settled, 0))
                self._spoken[key] = (start, to_samples(event.audio_end_ms))
            case TranscriptionDelta(voxd_audio_ms=ms) if ms is not UNSET:
                return msgspec.structs.replace(event, voxd_audio_ms=ms + to_ms(self._base))
            case Metrics(audio=audio):
                here = {name: ms + to_ms(self._base) for name, ms in audio.items()}
                return msgspec.structs.replace(event, audio=here)
            case TranscriptionCompleted(item_id=key) | TranscriptionFailed(item_id=key) if key in self._spoken:
                # The acknowledgement may be lost with the link, and the text must not come twice.
                _, end = self._spoken.pop(key)
                self._settle(min(end, *(start for start, _ in self._spoken.values()), self._ring.end))
            case _:
                pass
        if isinstance(event, TranscriptionCompleted) and event.voxd_words:
            return msgspec.structs.replace(event, voxd_words=tuple(map(self._here, event.voxd_words)))
        return event

    def _here(self, word: SpokenWord) -> SpokenWord:
        base = to_ms(self._base)
        return SpokenWord(word.text, word.start_ms + base, word.end_ms + base)

    def created(self, event: SessionCreated) -> int:
        """Told of a session that knows nothing yet: it gets all that is not settled.  Returns the samples lost by
        that."""
        self.token = event.session.voxd.resume_token
        self.seq = event.voxd_seq or 0
        self._base = self._next = self._received = self._ring.start
        self._spoken.clear()
        return self._lose(self._settled, self._ring.start)

    def resumed(self, event: Resumed) -> int:
        """Told that the session goes on: it gets what it has not received.  Returns the samples that it never will
        get."""
        self._next = self._received = self._base + event.received_samples
        return self._lose(self._next, self._ring.start)

    def _settle(self, position: int) -> None:
        self._settled = max(self._settled, position)
        self._ring.trim(self._settled)

    def _lose(self, start: int, end: int) -> int:
        """Counts [start, end) as lost, if it is not empty; returns how much of it was not lost before."""
        if end <= start:
            return 0
        before = self.lost
        holes: list[tuple[int, int]] = []
        for first, last in sorted((*self._holes, (start, end))):
            if holes and first <= holes[-1][1]:
                holes[-1] = holes[-1][0], max(last, holes[-1][1])
            else:
                holes.append((first, last))
        # Nothing below what is settled is lost once more: there it is enough to know how much it was.
        self._sunk += sum(last - first for first, last in holes if last <= self._settled)
        self._holes = [hole for hole in holes if hole[1] > self._settled]
        self.lost = self._sunk + sum(last - first for first, last in self._holes)
        return self.lost - before
