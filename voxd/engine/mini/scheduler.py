"""Which request of Voxtral Mini goes to the device next.  Step 7.

Pure; it knows no tensor.  One round is at most one window encoded *or* one piece of a prompt prefilled, for the most
wanted request and, among equals, the one that has waited longest; and one token for each request that decodes.  So
somebody's long question costs the others one such piece per token, and a live transcriber beside it never more.  While
the device computes a round, the token ids of the one before are read.

Embeddings stay where the encoder put them until the place is needed; then they move to the host's memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from voxd.engine.gpu.batch import Flight, Table
from voxd.engine.mini.block_manager import UNKNOWN, Memory
from voxd.engine.mini.conversation import ConversationState, MiniUtterance
from voxd.engine.mini.interface import (
    ENCODER_HEAD,
    HEAD,
    LAST_TOKEN,
    OF_PAGE,
    PER_WINDOW,
    POSITION,
    SEED,
    SLOT,
    SOURCE,
    SPAN,
    TEMPERATURE,
    TOP_P,
    WANTED,
    MiniDevice,
    Sampling,
    audio,
    bits,
    extremes,
)
from voxd.engine.mini.request import Request
from voxd.engine.mini.windows import Window

BUSY = 0.7  # share of the last second; above it nothing is begun that nobody waits for
SECOND_US = 1_000_000
ANSWER = 256  # tokens for which there must be room before an answer is begun


@dataclass(frozen=True, slots=True)
class Round:
    """The results of one step."""

    advanced: tuple[Request, ...]  # have a new token, or have ended
    starved: tuple[Request, ...]  # found no memory


class Schedule:
    """The requests in progress, in the order in which they came, and what the device is doing for them."""

    def __init__(
        self, device: MiniDevice, memory: Memory, sampling: Sampling, begin: Callable[[Request], bool]
    ) -> None:
        """`begin` gives a request its prompt and its beginning in the sequence, once its audio is encoded; False: there
        is nothing to do for it now."""
        self._device, self._memory, self._begin = device, memory, begin
        self._sampling = np.array([bits(sampling.temperature), bits(sampling.top_p), sampling.seed], np.int32)
        self._window = np.zeros(
            (1, ENCODER_HEAD + SPAN // 2), np.int32
        )  # a row of the encoder's table; a runner copies it
        self._requests: dict[Request, None] = {}
        self._flights: list[Callable[[int], None]] = []
        self._at: dict[int, Window] = {}  # by place, the one used longest ago first
        self._spent: deque[tuple[int, int]] = deque()  # when, and how much of the device's time, in the last second
        self._again = False
        self._advanced: dict[Request, None] = {}
        self._starved: list[Request] = []

    def add(self, request: Request) -> None:
        self._requests[request] = None

    def drop(self, request: Request) -> None:
        self._requests.pop(request, None)

    def __contains__(self, request: Request) -> bool:
        return request in self._requests

    def step_again(self) -> None:
        """The next step is wanted at once: what it needs has become free."""
        self._again = True

    @property
    def requests(self) -> Iterable[Request]:
        return tuple(self._requests)

    def of(self, conversation: ConversationState) -> list[Request]:
        """The requests of this conversation."""
        return [request for request in self._requests if request.conversation is conversation]

    def find(self, conversation: ConversationState, ref: int) -> Request | None:
        """The request that publishes `ref`."""
        return next((request for request in self.of(conversation) if request.ref == ref), None)

    @property
    def active(self) -> bool:
        """Whether anything is to be computed or read."""
        return self._again or bool(self._flights)

    def busy(self, now_us: int) -> bool:
        """Was the device busy for most of the last second?"""
        self._forget_spent(now_us)
        return sum(spent for _, spent in self._spent) > BUSY * SECOND_US

    def forget(self, window: Window) -> None:
        """Frees the embeddings of a window that is not needed any more."""
        if window.place is not None:
            del self._at[window.place]
            self._device.places.give(window.place)
            window.place = None
        window.kept = None

    def step(self, now_us: int) -> Round:
        """A round is given to the device, then the one before is read; returns what came of both."""
        self._advanced, self._starved = {}, []
        before, self._flights = self._flights, []
        for request in self._requests:
            request.since_us = now_us if request.since_us is None else request.since_us
        ready = [
            request for request in self._requests if request.decodes
        ]  # not those prefilled now: their first token is read sooner
        heavy = self._heavy()
        decoded = self._decode(ready)
        for read in before:
            read(now_us)
        self._again = heavy or decoded or bool(before)  # what was read may be what somebody waits for
        return Round(tuple(self._advanced), tuple(self._starved))

    # ── one window, or one piece of a prompt ────────────────────────────────────────────────────────────────────────

    def _heavy(self) -> bool:
        for request in sorted(self._requests, key=lambda each: each.kind):  # stable: the oldest of equals first
            if request.prefilled and (request.asked or request.most == 0):
                continue
            if request.prompt is None:
                if self._encode(request):
                    return True
                if not self._begin(request):
                    continue
            if self._prefill(request):
                return True
        return False

    def _encode(self, request: Request) -> bool:
        """Has the next window encoded that the request lacks."""
        for utterance in request.hears:
            window = utterance.clip.unasked
            if window is not None:
                self._submit_window(request, utterance, window)
                return True
        return False

    def _submit_window(self, request: Request, utterance: MiniUtterance, window: Window) -> None:
        place = self._free_place(())
        window.asked, window.place = True, place
        self._at[place] = window
        self._window[0, :ENCODER_HEAD] = place, bits(window.higher)
        request.conversation.write_samples(utterance, window, self._window[0, ENCODER_HEAD:].view(np.int16))
        flight = self._device.encoder.submit(self._window)

        def read(now_us: int) -> None:
            window.found = extremes(flight.token_ids()[0])
            request.compute_us += self._note(now_us, flight)

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
        """Sees to it that the embeddings of these windows are on the device."""
        for window in windows:
            if window.place is None:
                window.place = self._free_place(windows)
                self._device.put(window.kept, window.place)
            else:
                del self._at[window.place]
            self._at[window.place] = window

    def _prefill(self, request: Request) -> bool:
        prompt, sequence = request.prompt, request.sequence
        assert prompt is not None
        first = len(sequence.held)
        symbols = prompt[first : first + self._device.prefill.largest]
        if not symbols:
            return False
        if not self._memory.reserve(sequence, len(prompt) + min(request.most, ANSWER)):
            self._starved.append(request)
            return False
        table = self._table(request, len(symbols))
        table[:, SOURCE] = self._sources(request.conversation, symbols)
        request.ask(symbols)
        last = first + len(symbols) == len(prompt) and request.most > 0
        table[-1, WANTED] = last
        request.asked = int(last)
        flight = self._device.prefill.submit(table)
        self._flights.append(lambda now_us: self._hear(now_us, flight, [request] if last else [], [request]))
        return True

    def _sources(self, conversation: ConversationState, symbols: list[int]) -> Table:
        """Where the embedding of each symbol is."""
        symbol = np.array(symbols, np.int64)
        source = symbol.astype(np.int32)
        number = (-1 - symbol) // PER_WINDOW
        windows = [conversation.window(int(each)) for each in dict.fromkeys(number[symbol < 0].tolist())]
        self._bring(windows)
        for window in windows:
            mine = (symbol < 0) & (number == window.number)
            index = (-1 - symbol[mine]) % PER_WINDOW
            source[mine] = audio(window.place or 0, 0) - index
        return source

    def _table(self, request: Request, count: int) -> Table:
        """Rows of the device's table for the next positions of a sequence, still without their sources."""
        sequence = request.sequence
        assert sequence.slot is not None
        position = np.arange(len(sequence.held), len(sequence.held) + count)
        table = np.zeros((count, HEAD), np.int32)
        table[:, SLOT], table[:, POSITION] = sequence.slot, position
        table[:, OF_PAGE] = [sequence.page(each) for each in position.tolist()]
        table[:, [TEMPERATURE, TOP_P, SEED]] = self._sampling
        return table

    # ── one token each ────────────────────────────────────────────────────────────────────────────────────────────────

    def _decode(self, ready: list[Request]) -> bool:
        """One token for each ready request; the most wanted first, in turns if there are too many for a batch."""
        ready.sort(key=lambda each: each.kind)
        batch: list[Request] = []
        rows: list[Table] = []
        for request in ready:
            if len(batch) == self._device.decode.largest:
                break
            if not self._memory.reserve(request.sequence, len(request.sequence.held) + 1):
                self._starved.append(request)
                continue
            row = self._table(request, 1)
            source = request.next_source()
            row[0, SOURCE], row[0, WANTED] = (LAST_TOKEN if source == UNKNOWN else source), 1
            request.ask([source])
            request.asked += 1
            batch.append(request)
            rows.append(row)
        if not batch:
            return False
        if len(batch) < len(ready):  # those that were served go to the end
            for request in batch:
                self._requests[request] = self._requests.pop(request)
        flight = self._device.decode.submit(np.concatenate(rows))
        self._flights.append(lambda now_us: self._hear(now_us, flight, batch, batch))
        return True

    def _hear(self, now_us: int, flight: Flight, speakers: list[Request], payers: list[Request]) -> None:
        token_ids = flight.token_ids()
        share = self._note(now_us, flight) / len(payers)
        for request in payers:
            request.compute_us += share
        for request, token in zip(speakers, token_ids, strict=False):  # of a piece of a prompt only the last one counts
            if request in self._requests:
                request.hear(token, self._device.special.eos, now_us)
                self._advanced[request] = None

    def _note(self, now_us: int, flight: Flight) -> int:
        took = flight.took_us
        self._forget_spent(now_us)
        self._spent.append((now_us, took))
        return took

    def _forget_spent(self, now_us: int) -> None:
        """Forgets what is more than a second ago."""
        while self._spent and self._spent[0][0] < now_us - SECOND_US:
            self._spent.popleft()
