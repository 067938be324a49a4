"""The ear of a session: wire audio in, engine feed and turn marks out.  Step 5 of a frame's path, and half of step 10.

Pure.  It knows samples, the VAD's word on them and the turn rules; no items, no wire events, no engine.

Three positions, all in samples at 16 kHz, chase each other:  heard <= fed <= received.

    received   came from the client, decoded and resampled
    fed        handed to the engine process; never more than WINDOW past `heard`, so an engine needs to remember only
               the last few seconds, a client that sends faster than real time starves nobody, and what waits, waits
               here
    heard      scored by the VAD and walked through by the turn rules

Audio is kept as long as it may be needed again: that of an utterance from its start until its text is final (an engine
may be lost, a client may come back), else LOOK_BACK behind `heard`.  Bound: `capacity`; at the bound `has_room` is
false and the session decides (it knows the client).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from shared.audio import RATE, Decoder, Encoding, Ring
from voxd.messages import Feed, Heard
from voxd.session.turns import FRAME, Mark, Rules, Turns

WINDOW = 2 * RATE
LOOK_BACK = 3 * RATE  # the longest prefix padding (2 s) and an onset
PIECE = RATE  # samples in one Feed at most
CAPACITY_S = 300  # of audio that waits for a commit, or for the engine
PIECES = 2  # of a second: as much sound is resampled in one go, some 3 ms of work
COPIED = 8  # s of sound that is not resampled
INBOUND = 4 << 20  # bytes: above this backlog a connection stops reading its socket


class Listener:
    def __init__(self, rules: Rules, capacity: int = CAPACITY_S * RATE) -> None:
        self._turns = Turns(rules)
        self._ring = Ring(capacity + LOOK_BACK + INBOUND // 2)
        self._decoder: Decoder | None = None
        self._format: tuple[Encoding, int] = ("audio/pcm", 24_000)
        self._capacity = capacity
        # What the client has ended and `heard` has not reached: positions, and was it a commit (else a clear)?
        self._boundaries: deque[tuple[int, bool]] = deque()
        self.buffer_start = 0  # first sample that no commit or clear has consumed
        self.fed = 0
        self.heard = 0
        self.sent = 0  # samples that the client has sent, at the rate of its format

    # ── what the client sends ───────────────────────────────────────────────────────────────────────────────────────

    @property
    def received(self) -> int:
        return self._ring.end

    @property
    def kept(self) -> int:
        """Bytes of audio that may be needed again, or have not been heard."""
        return 2 * (self._ring.end - self._ring.start)

    @property
    def started(self) -> bool:
        """Has any audio come?  From then on the format is fixed."""
        return self._decoder is not None

    @property
    def backlog(self) -> int:
        """Samples received that the engine process has not been given."""
        return self.received - self.fed

    def has_room(self, data: bytes, missing: int = 0) -> bool:
        """Would these bytes, after `missing` samples of silence, stay within the bound, waiting for a commit or for the
        engine?"""
        samples = (len(data) // self._width + missing) * RATE // self._rate
        waiting = self.backlog if self._turns.rules.silence is not None else self.received - self.buffer_start
        return waiting + samples <= self._capacity

    @property
    def _rate(self) -> int:
        """Hz of the session's format."""
        return self._format[1] if self._format[0] == "audio/pcm" else 8000

    @property
    def _width(self) -> int:
        """Bytes of one of its samples."""
        return 2 if self._format[0] == "audio/pcm" else 1

    def set_format(self, encoding: Encoding, rate: int) -> None:
        """Before the first audio."""
        self._format = (encoding, rate)

    def set_rules(self, rules: Rules) -> None:
        """Takes effect at once, also for a turn that is open."""
        self._turns.rules = rules

    def missing(self, offset: int | None) -> int:
        """How many samples should have come before sample `offset`, and have not; at the rate of the format."""
        return 0 if offset is None else max(0, offset - self.sent)

    def receive_audio(self, data: bytes, offset: int | None = None) -> Iterator[None]:
        """Bytes in the session's format.  `offset`: number of their first sample at its rate; what is here already is
        passed over, what is missing in between is silence.  Yields between two pieces of work."""
        if self._decoder is None:
            self._decoder = Decoder(*self._format)
        if offset is not None and offset < self.sent:
            data = data[(self.sent - offset) * self._width :]
        missing = self.missing(offset)
        if missing:
            yield from self._receive_silence(missing)
        # Sound that is at 16 kHz already is only copied.
        piece = (COPIED * RATE if self._rate == RATE else self._rate // PIECES) * self._width
        for at in range(0, len(data), piece):
            if missing or at:
                yield
            part = data[at : at + piece]
            self.sent += len(part) // self._width
            self._ring.append(self._decoder.decode(part))

    def _receive_silence(self, samples: int) -> Iterator[None]:
        """It is counted, not computed: a message of a few bytes may stand for minutes."""
        assert self._decoder is not None
        self._ring.append(self._decoder.drain())
        end = self._ring.end + samples * RATE // self._rate
        self.sent += samples
        while self._ring.end < end:
            self._ring.append(bytes(2 * min(end - self._ring.end, INBOUND)))
            yield

    def at_client_rate(self, position: int) -> int:
        """A position at 16 kHz as the client counts."""
        return position * self._rate // RATE

    @property
    def uncommitted(self) -> int:
        """Samples that a commit would be of."""
        return self.received - self.buffer_start + (self._decoder.owed if self._decoder else 0)

    def commit(self) -> int:
        """The client ends its buffer: the position up to which it is committed."""
        if self._decoder is not None:
            self._ring.append(self._decoder.drain())
        self.buffer_start = self.received
        self._boundaries.append((self.received, True))
        return self.received

    def clear(self) -> None:
        """The client takes its uncommitted audio back: it will be heard, and starts nothing."""
        if self._decoder is not None:
            self._decoder.drain()
        self.buffer_start = self.received
        self._boundaries.append((self.received, False))

    # ── what the engine process hears ───────────────────────────────────────────────────────────────────────────────

    def feeds_to_send(self, stream: int, until: int | None = None) -> Iterator[Feed]:
        """Audio for the engine process, as far as the window allows, and not past `until` (where something ends that
        is told next)."""
        known = self.heard if until is None else min(until, self.heard)
        limit = min(self.received, self.heard + WINDOW, self.received if until is None else until)
        while self.fed < limit:
            start, pcm = self._ring.read(self.fed, min(limit, self.fed + PIECE))
            self.fed = start + len(pcm) // 2
            yield Feed(stream, start, pcm, known)

    def receive_heard(self, heard: Heard, *, answering: bool) -> Iterator[Mark | int]:
        """Marks in audio order; an int is the position of a client's commit that has now been heard in full."""
        for index, probability in enumerate(heard.probabilities):
            start = heard.start + index * FRAME
            if start < self.heard:
                continue  # a replay after an engine loss: these frames have had their effect
            yield from self._passed(start)
            if not self._boundaries or self._boundaries[0][1]:  # else it was taken back
                yield from self._turns.receive_frame(start, probability, answering=answering)
            self.heard = start + FRAME
        yield from self._passed(self.heard)

    def forget(self, before: int) -> None:
        """No utterance that is not over begins before this sample; the frame that it lies in is kept, for `rewind`."""
        self._ring.trim(min(before, self.heard - LOOK_BACK, self.fed) // FRAME * FRAME)

    def _passed(self, position: int) -> Iterator[Mark | int]:
        """Boundaries that lie before the end of the frame at `position`: no further whole frame can belong to them."""
        while self._boundaries and self._boundaries[0][0] < position + FRAME and self.fed >= self._boundaries[0][0]:
            boundary, committed = self._boundaries.popleft()
            if committed:
                yield from self._turns.receive_commit(boundary)
                yield boundary
            else:
                yield from self._turns.receive_clear(boundary)

    # ── when the engine process was lost ────────────────────────────────────────────────────────────────────────────

    def rewind(self, keep: int | None) -> int:
        """A new engine process must be fed again from `keep` (the start of what is open; None: nothing is).

        Returns the sample at which its stream begins: a whole number of frames before `heard`, so that its frames fall
        on the same samples as before."""
        wanted = self.heard if keep is None else min(keep, self.heard)
        back = -(-(self.heard - wanted) // FRAME)
        while self.heard - back * FRAME < self._ring.start:
            back -= 1
        self.fed = self.heard - max(back, 0) * FRAME
        return self.fed

    def keep(self, start: int) -> None:
        """The client consumed everything before `start` (the end of an utterance found by the turn rules)."""
        self.buffer_start = max(self.buffer_start, start)
