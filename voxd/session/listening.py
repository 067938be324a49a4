"""The audio that a session has received: wire audio in, engine feed and turn marks out.  Step 5, and half of step 10.

Pure.  It knows samples, their speech probabilities and the turn rules; no items, no wire events, no engine.

Three positions, all in samples at 16 kHz, follow each other:  heard <= fed <= received.

    received   came from the client, decoded and resampled
    fed        handed to the engine process; never more than WINDOW past `heard`.  So an engine needs to remember only
               the last few seconds, and a client that sends faster than real time takes no time from the others: its
               audio waits here
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
AHEAD_S = 180  # of audio fed past the start of the oldest utterance without its final text: engines keep minutes
LOOK_BACK = 3 * RATE  # the longest prefix padding (2 s) and an onset
PIECE = RATE  # samples in one Feed at most
CAPACITY_S = 300  # of audio that waits for a commit, or for the engine
PIECES = 2  # of a second: so much audio is resampled in one go, some 3 ms of work
COPIED = 8  # s of audio that is copied in one go where nothing is resampled
INBOUND = 4 << 20  # bytes: above this backlog a connection stops reading its socket


class InputBuffer:
    """The audio of one session and the boundaries that its client sets in it."""

    def __init__(self, rules: Rules, capacity: int = CAPACITY_S * RATE) -> None:
        self._turns = Turns(rules)
        self._ring = Ring(capacity + LOOK_BACK + INBOUND // 2)
        self._decoder: Decoder | None = None
        self._format: tuple[Encoding, int] = ("audio/pcm", 24_000)
        self._capacity = capacity
        # Commits and clears that `heard` has not reached: position, and whether it is a commit.
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
        """Whether any audio has come; from then on the format is fixed."""
        return self._decoder is not None

    @property
    def backlog(self) -> int:
        """Samples received that the engine process has not been given."""
        return self.received - self.fed

    def has_room(self, data: bytes, missing: int = 0) -> bool:
        """Whether these bytes, after `missing` samples of silence, stay within the bound of what may wait for a
        commit or for the engine."""
        samples = (len(data) // self._width + missing) * RATE // self._rate
        waiting = self.backlog if self._turns.rules.silence is not None else self.received - self.buffer_start
        return waiting + samples <= self._capacity

    @property
    def _rate(self) -> int:
        """Hz of the session's format."""
        return self._format[1] if self._format[0] == "audio/pcm" else 8000

    @property
    def _width(self) -> int:
        """Bytes of one sample in the session's format."""
        return 2 if self._format[0] == "audio/pcm" else 1

    def set_format(self, encoding: Encoding, rate: int) -> None:
        """Sets the format of the wire; only before the first audio."""
        self._format = (encoding, rate)

    def set_rules(self, rules: Rules) -> None:
        """New turn rules take effect at once, also for a turn that is open."""
        self._turns.rules = rules

    def missing(self, offset: int | None) -> int:
        """How many samples before sample `offset` have not come, at the rate of the format."""
        return 0 if offset is None else max(0, offset - self.sent)

    def receive_audio(self, data: bytes, offset: int | None = None) -> Iterator[None]:
        """Takes bytes in the session's format.  `offset`: number of their first sample at its rate; samples that are
        here already are passed over, missing ones become silence.  Yields between two pieces of work."""
        if self._decoder is None:
            self._decoder = Decoder(*self._format)
        if offset is not None and offset < self.sent:
            data = data[(self.sent - offset) * self._width :]
        missing = self.missing(offset)
        if missing:
            yield from self._receive_silence(missing)
        # Audio that is at 16 kHz already is only copied.
        piece = (COPIED * RATE if self._rate == RATE else self._rate // PIECES) * self._width
        for at in range(0, len(data), piece):
            if missing or at:
                yield
            part = data[at : at + piece]
            self.sent += len(part) // self._width
            self._ring.append(self._decoder.decode(part))

    def _receive_silence(self, samples: int) -> Iterator[None]:
        """Appends silence without resampling it: a message of a few bytes may stand for minutes."""
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
        """Samples that a commit would take."""
        return self.received - self.buffer_start + (self._decoder.owed if self._decoder else 0)

    def commit(self) -> int:
        """The client commits its buffer.  Returns the position up to which it is committed."""
        if self._decoder is not None:
            self._ring.append(self._decoder.drain())
        self.buffer_start = self.received
        self._boundaries.append((self.received, True))
        return self.received

    def clear(self) -> None:
        """The client clears its uncommitted audio: the VAD still scores it, but it starts no utterance."""
        if self._decoder is not None:
            self._decoder.drain()
        self.buffer_start = self.received
        self._boundaries.append((self.received, False))

    # ── what the engine process hears ───────────────────────────────────────────────────────────────────────────────

    def feeds_to_send(self, stream: int, until: int | None = None, owed_from: int | None = None) -> Iterator[Feed]:
        """Audio for the engine process, as far as the window allows, but not past `until` (where an utterance ends that
        is told next).  `owed_from`: the start of the oldest utterance that waits for its text."""
        known = self.heard if until is None else min(until, self.heard)
        limit = min(self.received, self.heard + WINDOW, self.received if until is None else until)
        if owed_from is not None:
            limit = min(limit, owed_from + AHEAD_S * RATE)
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
        """Drops audio before `before`, where no open utterance begins; the frame around it is kept for `rewind`."""
        self._ring.trim(min(before, self.heard - LOOK_BACK, self.fed) // FRAME * FRAME)

    def _passed(self, position: int) -> Iterator[Mark | int]:
        """The boundaries before the end of the frame at `position`: no further whole frame can belong to them."""
        while self._boundaries and self._boundaries[0][0] < position + FRAME and self.fed >= self._boundaries[0][0]:
            boundary, committed = self._boundaries.popleft()
            if committed:
                yield from self._turns.receive_commit(boundary)
                yield boundary
            else:
                yield from self._turns.receive_clear(boundary)

    # ── when the engine process was lost ────────────────────────────────────────────────────────────────────────────

    def rewind(self, keep: int | None) -> int:
        """Goes back to `keep`, from where a new engine process must be fed (oldest open start; None: nothing is open).

        Returns the sample at which its stream begins: a whole number of frames before `heard`, so that its frames fall
        on the same samples as before."""
        wanted = self.heard if keep is None else min(keep, self.heard)
        back = -(-(self.heard - wanted) // FRAME)
        while self.heard - back * FRAME < self._ring.start:
            back -= 1
        self.fed = self.heard - max(back, 0) * FRAME
        return self.fed

    def keep(self, start: int) -> None:
        """Audio before `start` (the end of an utterance that the turn rules found) is committed."""
        self.buffer_start = max(self.buffer_start, start)
