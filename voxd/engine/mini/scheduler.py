"""Which work goes to the device next.  Step 7, for Voxtral Mini.  Pure; it knows no tensor.

A round is: at most one window encoded *or* one piece of a prompt prefilled, for the work that is most wanted and, among
equals, has waited longest; and one id for each work that decodes.  So somebody's long question costs the others one
such piece per id, and a live transcriber beside it never more.  While the device computes a round, the ids of the one
before are read.

Embeddings stay where the encoder put them until the place is needed; then they move to the host's memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from voxd.engine.gpu.batch import Flight, Table
from voxd.engine.mini.block_manager import UNKNOWN, Memory
from voxd.engine.mini.conversation import Talk, Utterance
from voxd.engine.mini.interface import (
    ENCODER_HEAD,
    HEAD,
    OF_PAGE,
    PER_WINDOW,
    POSITION,
    SAID,
    SEED,
    SLOT,
    SOURCE,
    SPAN,
    TEMPERATURE,
    TOP_P,
    WANTED,
    Device,
    Sampling,
    audio,
    bits,
    extremes,
)
from voxd.engine.mini.request import Work
from voxd.engine.mini.windows import Window

BUSY = 0.7  # share of the last second; above it nothing is begun that nobody waits for
SECOND_US = 1_000_000
ANSWER = 256  # ids for which there must be room before an answer is begun


class Schedule:
    """Works, in the order in which they came."""

    def __init__(self, device: Device, memory: Memory, sampling: Sampling, begin: Callable[[Work], bool]) -> None:
        """`begin` gives a work its prompt and its beginning in the sequence, once its audio is encoded; False: there
        is nothing to be done for it now."""
        self._device, self._memory, self._begin = device, memory, begin
        self._sampling = np.array([bits(sampling.temperature), bits(sampling.top_p), sampling.seed], np.int32)
        self._window = np.zeros((1, ENCODER_HEAD + SPAN // 2), np.int32)  # a row of the encoder; a runner copies it
        self._works: dict[Work, None] = {}
        self._flights: list[Callable[[int], None]] = []
        self._at: dict[int, Window] = {}  # by place, the one used longest ago first
        self._spent: deque[tuple[int, int]] = deque()  # of the last second: when, and how much of the device's time
        self.heard: dict[Work, None] = {}  # works with something new to say; whoever takes it clears it
        self.starved: list[Work] = []  # there is no memory for these
        self.waiting = False

    def add(self, work: Work) -> None:
        self._works[work] = None

    def drop(self, work: Work) -> None:
        self._works.pop(work, None)
        self.heard.pop(work, None)

    @property
    def works(self) -> Iterable[Work]:
        return tuple(self._works)

    @property
    def active(self) -> bool:
        """Is anything to be computed or read?"""
        return self.waiting or bool(self._flights)

    def busy(self, now_us: int) -> bool:
        """Has the device hardly been idle?"""
        self._forget_spent(now_us)
        return sum(spent for _, spent in self._spent) > BUSY * SECOND_US

    def forget(self, window: Window) -> None:
        """Its embeddings are not needed any more."""
        if window.place is not None:
            del self._at[window.place]
            self._device.places.give(window.place)
            window.place = None
        window.kept = None

    def step(self, now_us: int) -> None:
        """A round: given to the device, then the one before read."""
        before, self._flights = self._flights, []
        for work in self._works:
            work.since_us = now_us if work.since_us is None else work.since_us
        ready = [work for work in self._works if work.decodes]  # not who is prefilled now: its first id is read sooner
        heavy = self._heavy()
        decoded = self._decode(ready)
        for read in before:
            read(now_us)
        self.waiting = heavy or decoded or bool(before)  # what was read may be what somebody waits for

    # ── one window, or one piece of a prompt ────────────────────────────────────────────────────────────────────────

    def _heavy(self) -> bool:
        for work in sorted(self._works, key=lambda each: each.kind):  # stable: the oldest of equals first
            if work.prefilled and (work.asked or work.most == 0):
                continue
            if work.prompt is None:
                if self._encode(work):
                    return True
                if not self._begin(work):
                    continue
            if self._prefill(work):
                return True
        return False

    def _encode(self, work: Work) -> bool:
        """The next window that it lacks."""
        for utterance in work.hears:
            window = utterance.clip.unasked
            if window is not None:
                self._submit_window(work, utterance, window)
                return True
        return False

    def _submit_window(self, work: Work, utterance: Utterance, window: Window) -> None:
        place = self._free_place(())
        window.asked, window.place = True, place
        self._at[place] = window
        self._window[0, :ENCODER_HEAD] = place, bits(window.higher)
        work.talk.write_samples(utterance, window, self._window[0, ENCODER_HEAD:].view(np.int16))
        flight = self._device.encoder.submit(self._window)

        def read(now_us: int) -> None:
            window.found = extremes(flight.ids()[0])
            work.compute_us += self._note(now_us, flight)

        self._flights.append(read)

    def _free_place(self, needed: Sequence[Window]) -> int:
        if not self._device.places.free:
            place = next(place for place, window in self._at.items() if window not in needed)
            window = self._at.pop(place)
            if window.kept is None:
                window.kept = self._device.keep(place)
            window.place = None
            return place
        return self._device.places.take()

    def _bring(self, windows: Sequence[Window]) -> None:
        """Their embeddings are on the device."""
        for window in windows:
            if window.place is None:
                window.place = self._free_place(windows)
                self._device.put(window.kept, window.place)
            else:
                del self._at[window.place]
            self._at[window.place] = window

    def _prefill(self, work: Work) -> bool:
        prompt, sequence = work.prompt, work.sequence
        assert prompt is not None
        first = len(sequence.held)
        symbols = prompt[first : first + self._device.prefill.largest]
        if not symbols:
            return False
        if not self._memory.reserve(sequence, len(prompt) + min(work.most, ANSWER)):
            self.starved.append(work)
            return False
        table = self._table(work, len(symbols))
        table[:, SOURCE] = self._sources(work.talk, symbols)
        work.ask(symbols)
        last = first + len(symbols) == len(prompt) and work.most > 0
        table[-1, WANTED] = last
        work.asked = int(last)
        flight = self._device.prefill.submit(table)
        self._flights.append(lambda now_us: self._hear(now_us, flight, [work] if last else [], [work]))
        return True

    def _sources(self, talk: Talk, symbols: list[int]) -> Table:
        """Where the embedding of each symbol is."""
        symbol = np.array(symbols, np.int64)
        source = symbol.astype(np.int32)
        number = (-1 - symbol) // PER_WINDOW
        windows = [talk.window(int(each)) for each in dict.fromkeys(number[symbol < 0].tolist())]
        self._bring(windows)
        for window in windows:
            mine = (symbol < 0) & (number == window.number)
            index = (-1 - symbol[mine]) % PER_WINDOW
            source[mine] = audio(window.place or 0, 0) - index
        return source

    def _table(self, work: Work, count: int) -> Table:
        """Rows for the next positions of a sequence, but for what is in them."""
        sequence = work.sequence
        assert sequence.slot is not None
        position = np.arange(len(sequence.held), len(sequence.held) + count)
        table = np.zeros((count, HEAD), np.int32)
        table[:, SLOT], table[:, POSITION] = sequence.slot, position
        table[:, OF_PAGE] = [sequence.page(each) for each in position.tolist()]
        table[:, [TEMPERATURE, TOP_P, SEED]] = self._sampling
        return table

    # ── an id each ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _decode(self, ready: list[Work]) -> bool:
        """For those who wait for it before those who may; beyond the largest batch, in turns."""
        ready.sort(key=lambda each: each.kind)
        batch: list[Work] = []
        rows: list[Table] = []
        for work in ready:
            if len(batch) == self._device.decode.largest:
                break
            if not self._memory.reserve(work.sequence, len(work.sequence.held) + 1):
                self.starved.append(work)
                continue
            row = self._table(work, 1)
            source = work.next_source()
            row[0, SOURCE], row[0, WANTED] = (SAID if source == UNKNOWN else source), 1
            work.ask([source])
            work.asked += 1
            batch.append(work)
            rows.append(row)
        if not batch:
            return False
        if len(batch) < len(ready):  # who was served goes to the end
            for work in batch:
                self._works[work] = self._works.pop(work)
        flight = self._device.decode.submit(np.concatenate(rows))
        self._flights.append(lambda now_us: self._hear(now_us, flight, batch, batch))
        return True

    def _hear(self, now_us: int, flight: Flight, speakers: list[Work], payers: list[Work]) -> None:
        ids = flight.ids()
        share = self._note(now_us, flight) / len(payers)
        for work in payers:
            work.compute_us += share
        for work, token in zip(speakers, ids, strict=False):  # a piece that is not the last says nothing that counts
            if work in self._works:
                work.hear(token, self._device.script.eos, now_us)
                self.heard[work] = None

    def _note(self, now_us: int, flight: Flight) -> int:
        took = flight.took_us
        self._forget_spent(now_us)
        self._spent.append((now_us, took))
        return took

    def _forget_spent(self, now_us: int) -> None:
        """What is more than a second ago."""
        while self._spent and self._spent[0][0] < now_us - SECOND_US:
            self._spent.popleft()
